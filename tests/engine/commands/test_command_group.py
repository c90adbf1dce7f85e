"""Errors of every kind leave the command line with the right code and one line."""

import subprocess
import sys
import warnings

import click
import pytest
from click.testing import CliRunner

from engine.commands.command_group import CommandGroup, LazyCommand
from engine.errors import BundleError, NonFiniteError


def group_that_raises(error: BaseException) -> click.Group:
    @click.group(cls=CommandGroup, lazy_commands={})
    @click.option("--debug", is_flag=True)
    def main(debug: bool) -> None:
        raise error

    main.invoke_without_command = True
    main.no_args_is_help = False
    return main


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (BundleError("bad bundle"), 2, "Error: bad bundle"),
        (NonFiniteError("no image"), 1, "Error: no image"),
        (
            PermissionError(13, "Permission denied", "out.mdf"),
            1,
            "Error: [Errno 13] Permission denied: 'out.mdf'",
        ),
        (
            ZeroDivisionError("x\ny"),
            1,
            "Error: unexpected ZeroDivisionError: x y; use main --debug for details",
        ),
    ],
)
def test_errors_become_one_line(error: Exception, code: int, line: str) -> None:
    result = CliRunner().invoke(group_that_raises(error), [])
    assert result.exit_code == code
    assert result.stderr == line + "\n"
    assert result.stdout == ""


@pytest.mark.parametrize("program", ["engine", "trainer", "deqmpi-export", "python -m trainer"])
def test_the_hint_names_the_program_that_ran(program: str) -> None:
    result = CliRunner().invoke(group_that_raises(ZeroDivisionError()), [], prog_name=program)
    assert result.stderr.endswith(f"; use {program} --debug for details\n")


def test_debug_adds_the_traceback() -> None:
    result = CliRunner().invoke(group_that_raises(BundleError("bad bundle")), ["--debug"])
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("Error: bad bundle\n")


def test_interruption_is_left_to_click() -> None:
    result = CliRunner().invoke(group_that_raises(KeyboardInterrupt()), [])
    assert result.exit_code == 1
    assert "Aborted!" in result.stderr


def test_warnings_become_one_line() -> None:
    @click.group(cls=CommandGroup, lazy_commands={}, invoke_without_command=True)
    def main() -> None:
        warnings.simplefilter("always")
        warnings.warn("two\nlines", UserWarning, stacklevel=1)

    result = CliRunner().invoke(main, [])
    assert result.exit_code == 0
    assert result.stderr == "Warning: two lines\n"


def test_commands_are_imported_only_when_used() -> None:
    entries = {"absent": LazyCommand("engine.commands.absent", "absent", "Never imported.")}

    @click.group(cls=CommandGroup, lazy_commands=entries)
    def main() -> None:
        """Test."""

    shown = CliRunner().invoke(main, ["--help"])
    assert shown.exit_code == 0
    assert "Never imported." in shown.output
    used = CliRunner().invoke(main, ["absent"])
    assert used.exit_code == 1
    assert "unexpected ModuleNotFoundError" in used.stderr
    unknown = CliRunner().invoke(main, ["other"])
    assert unknown.exit_code == 2
    assert "No such command 'other'" in unknown.stderr


def test_help_imports_no_command() -> None:
    code = (
        "import sys\nfrom engine.cli import main\n"
        "try:\n    main(['--help'])\nfinally:\n"
        "    print(sorted({m for m in sys.modules if m.startswith('engine.commands.')} - "
        "{'engine.commands.command_group'}),"
        "          [m for m in ('numpy', 'h5py') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[] []"
    for name in ("simulate", "calibrate", "recon", "info", "demo"):
        assert f"  {name} " in run.stdout
