"""The public names of the package exist, are imported lazily, and nothing else pretends to be one."""

import subprocess
import sys

import pytest

import engine


@pytest.mark.parametrize("name", engine.__all__)
def test_public_name_resolves_to_its_module(name: str) -> None:
    value = getattr(engine, name)
    assert value.__name__ == name
    assert value.__module__.startswith("engine.")
    assert value.__doc__
    assert name in dir(engine)


def test_list_and_table_agree() -> None:
    assert sorted(engine._MODULES) == sorted(engine.__all__)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        engine.nothing  # noqa: B018


def test_import_is_light() -> None:
    """`import engine` loads nothing but itself; numpy would already cost a tenth of a second."""
    code = "import sys, engine; print([m for m in ('numpy', 'h5py', 'scipy', 'click') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
