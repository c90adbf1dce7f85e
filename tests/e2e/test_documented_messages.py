"""The clients shown on the page of the messages talk to real sockets."""

import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from engine.fixed_point.solution import Result
from engine.live.loop.counters import Counters
from engine.live.loop.live_image import BackgroundState, Flag, LiveImage, LiveReport
from engine.live.wire.frame_socket import FrameSocket
from engine.live.wire.image_socket import ImageSocket
from engine.live.wire.messages import encode_image
from engine.measurement.raw_frame import RawFrame
from engine.mpi.grid import Grid
from engine.reconstruction.report import FrameReport

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"

PATIENCE = 60.0
"""Seconds after which a client is taken to hang."""


def clients() -> list[str]:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    assert all(len(block.splitlines()) <= 10 for block in blocks)  # as their headings say
    return blocks


def run(code: str) -> str:
    """Run a client as a program of its own; return what it prints."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_scanner() -> None:
    frames: list[RawFrame] = []
    rejected: list[Exception] = []
    complete = threading.Event()

    def take(frame: RawFrame, _parts: list[bytes]) -> None:
        frames.append(frame)
        if len(frames) == 5:
            complete.set()

    with FrameSocket("tcp://127.0.0.1:*", 10**6, take, rejected.append) as opened:
        before = time.time_ns()
        run(clients()[0].replace("tcp://127.0.0.1:5555", opened.last_endpoint))
        assert complete.wait(PATIENCE), rejected
    assert not rejected
    assert [frame.sequence for frame in frames] == list(range(5))
    assert {frame.data.shape for frame in frames} == {(60, 1, 130)}
    assert {frame.data.dtype for frame in frames} == {np.dtype(np.complex64)}
    assert {frame.stream for frame in frames} == {"phantom 3"}
    assert all(before <= (frame.acquired_ns or 0) <= time.time_ns() for frame in frames)


def test_viewer() -> None:
    values = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    frame = FrameReport(
        "deq", Result.CONVERGED, 1, (0.0,), 0, 1.0, 1.0, 20.0, {}, False, None, False, 1.0, 1.0
    )
    with ImageSocket("tcp://127.0.0.1:*") as opened:
        ending = threading.Event()

        def publish() -> None:
            for sequence in range(10**6):
                report = LiveReport(
                    sequence, sequence, 1, "", None, 0, 0, 0.0, 1.0, (Flag.GAP,), (), None, frame
                )
                grid = Grid((4, 3, 1), (0.04, 0.03, 0.01))
                image = LiveImage(values, None, grid, BackgroundState(), report)
                opened.send(encode_image(image, Counters()))
                if ending.wait(0.01):
                    return

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            printed = run(clients()[1].replace("tcp://127.0.0.1:5556", opened.last_endpoint))
        finally:
            ending.set()
            thread.join()
    found = [re.fullmatch(r"(\d+) 11\.0 \['gap'\]", line) for line in printed.splitlines()]
    assert len(found) == 5
    assert all(found)
    sequences = [int(match[1]) for match in found if match]
    assert sequences == list(range(sequences[0], sequences[0] + 5))


def test_bytes_shown_are_those_of_the_values() -> None:
    (shown,) = re.findall(r"```text\n([0-9a-f ]+)\n", PAGE.read_text(encoding="utf-8"))
    assert bytes.fromhex(shown) == np.array([1 + 2j, 3 + 4j], "<c8").tobytes()
