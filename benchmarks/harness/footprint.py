"""What the engine takes besides time: seconds and memory to start, and what it keeps as frames go by."""

import gc
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.harness.record import ROOT
from engine.operators.operators import Operators
from engine.operators.operators_file import save_operators

START = """
import json, sys, time
started = time.perf_counter()
from engine.reconstruction.method_settings import MethodSettings
from engine.reconstruction.reconstructor import Reconstructor
Reconstructor.load(sys.argv[1], settings=MethodSettings(model=sys.argv[2]))
seconds = time.perf_counter() - started
status = open("/proc/self/status").read()
resident = int(status.split("VmRSS:")[1].split()[0]) / 1024
print(json.dumps({"seconds": seconds, "resident_mb": resident, "torch": "torch" in sys.modules}))
"""
"""Run by a fresh interpreter: import, bundle and operators, up to where a frame could come."""

STARTS = 5
"""The first one may compile and reads from the disk; the median of the others counts."""

SETTLE = 200
"""Frames before memory is first looked at: pools and caches fill."""


def start_up(operators: Operators, model: Path) -> Mapping[str, Any]:
    """Return the median seconds and resident MB of a process that is ready for its first frame."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "operators.h5"
        save_operators(file, operators)
        command = [sys.executable, "-c", START, str(file), str(model)]
        found = [
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)  # noqa: S603
            for _ in range(STARTS)
        ]
    ready: list[Mapping[str, Any]] = sorted(found[1:], key=lambda start: float(start["seconds"]))
    return ready[len(ready) // 2]


def resident_mb() -> float:
    """Return the resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def growth(frame: Callable[[int], object], count: int) -> Mapping[str, float]:
    """Return how resident memory changes over many frames, in MB, after some to settle.

    Parameters
    ----------
    frame : callable
        Does the frame of a number and keeps nothing.
    count : int
        Frames between the two looks.
    """
    for number in range(SETTLE):
        frame(number)
    gc.collect()
    before = resident_mb()
    for number in range(count):
        frame(number)
    gc.collect()
    return {"frames": count, "before_mb": before, "growth_mb": resident_mb() - before}


def allocated(call: Callable[[], object], times: int) -> Mapping[str, float]:
    """Return what Python and numpy allocate in a call, in bytes: held at most, and left behind per call.

    The runtime's own pool is not seen here; it shows in `growth`.
    """
    call()
    tracemalloc.start()
    try:
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(times):
            call()
        gc.collect()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return {"peak_bytes": float(peak - before), "left_bytes_per_call": (after - before) / times}
