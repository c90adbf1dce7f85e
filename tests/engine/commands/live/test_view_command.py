"""`engine view` as a process: what it prints, how it ends, what it refuses."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from engine.cli import main
from engine.live.view.snapshot_formats import unknown_origin
from engine.mpi.mdf import write_mdf
from engine.mpi.mdf.new_files import new_reconstruction_file
from tests.engine.live.view.fake_service import GRID, blobs

ENDS_WITHIN = 20.0
"""Seconds; far more than it takes, so that a busy machine fails no test."""


def view(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    code = "from engine.cli import main\nmain()"
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, "view", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_the_page_is_and_ends_cleanly(tmp_path, number) -> None:
    source = tmp_path / "source.mdf"
    write_mdf(source, new_reconstruction_file(blobs(GRID, 0.0)[None], GRID, unknown_origin()))
    with view("--metadata", str(source), folder=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert line.startswith("watching tcp://127.0.0.1:5556; page: http://127.0.0.1:")
        assert "token" not in line
        process.send_signal(number)
        assert process.wait(ENDS_WITHIN) == 0
        assert process.stderr.read() == ""
    assert not (tmp_path / "snapshots").exists()  # nobody took one


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["view", *arguments], catch_exceptions=False)
    return result.exit_code, result.output


def test_token_is_in_the_address_when_bound_elsewhere(tmp_path) -> None:
    with view("--host", "0.0.0.0", folder=tmp_path) as process:  # noqa: S104
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(ENDS_WITHIN) == 0
    assert len(line.strip().partition("/?token=")[2]) >= 43


def test_taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, output = run("--port", str(taken.getsockname()[1]))
    assert code == 1
    assert "give another --host or --port" in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--source", "nowhere"], "expected an address like tcp://"),
        (["--metadata", "missing.mdf"], "missing.mdf"),
        (["--snapshots", "missing/snapshots"], "create that first"),
        (["--port", "70000"], "70000"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments, words, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = run(*(["--port", "0"] if "--port" not in arguments else []), *arguments)
    assert code == 2
    assert words in output
    assert "page:" not in output


def test_missing_extra_is_named(monkeypatch) -> None:
    for name in [name for name in sys.modules if name.startswith("engine.live.view.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "zmq", None)
    code, output = run()
    assert code == 2
    assert "pip install 'deq-mpi[live]'" in output
