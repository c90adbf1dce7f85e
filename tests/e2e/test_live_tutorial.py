"""The tutorial of the live service does what it says, command by command."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from engine.mpi.mdf import read_mdf

PAGE = Path(__file__).parents[2] / "docs" / "live-tutorial.md"

LIMIT_S = 240.0
"""Longest time for all of it; it takes half a minute on a quiet machine."""


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens at; all held at once, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def test_every_command_of_the_tutorial(tmp_path: Path) -> None:
    if shutil.which("bash") is None or shutil.which("curl") is None:
        pytest.skip("the tutorial's commands need bash and curl")
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```(sh|toml)\n(.*?)```", text, re.DOTALL)
    frames, images, status, page = free_ports(4)
    endpoints = (
        f'[status]\nport = {status}\n\n[endpoints]\nframes = "tcp://127.0.0.1:{frames}"\n'
        f'images = "tcp://127.0.0.1:{images}"\n'
    )
    lines = ["set -euo pipefail", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    for kind, block in blocks:
        if kind == "toml":
            (tmp_path / "live.toml").write_text(block.replace("[status]\n", endpoints), encoding="utf-8")
            continue
        block = block.replace("engine view", f"engine view --source tcp://127.0.0.1:{images} --port {page}")
        block = block.replace("127.0.0.1:9464", f"127.0.0.1:{status}")
        block = re.sub(r"(engine send \S+)", rf"\1 --to tcp://127.0.0.1:{frames}", block)
        lines.append(block)
    # What a reader would see on the page.
    programs = tmp_path / "programs"
    programs.mkdir()
    engine = programs / "engine"
    engine.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m engine.cli "$@"\n', encoding="utf-8")
    engine.chmod(0o755)
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "replay.json").read_text(encoding="utf-8"))
    assert report["is_balanced"]
    assert report["frames_in"] == 232
    assert report["images_out"] + report["dropped"] == 232  # a machine that stalls drops some; it is counted
    assert report["images_out"] > 0
    assert '"ok": true' in done.stdout
    assert re.search(r"^deqmpi_images_total [1-9]", done.stdout, re.MULTILINE)
    states = re.findall(r'"event": "swap", "state": "([a-z-]+)"', done.stderr)
    assert states == ["waiting", "on-trial", "accepted"]
    (closed,) = re.findall(r'\{.*"event": "loop-closed".*\}', done.stderr)
    account = json.loads(closed)
    assert account["frames_in"] == 232 + 93
    assert account["in_flight"] == 0
    files = [read_mdf(path) for path in (tmp_path / "recordings").glob("*.mdf")]
    recorded = sum(file.acquisition.num_frames for file in files if file.measurement is not None)
    assert recorded == account["frames_in"] + account["background_in"]
    made = sum(len(file.reconstruction.data) for file in files if file.reconstruction is not None)
    assert made == account["images_out"]
    assert (tmp_path / "images.png").stat().st_size > 0
