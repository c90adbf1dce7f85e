"""Memory and start-up: calls whose use of memory is known, and a process that is."""

import json
import mmap
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.harness import footprint
from benchmarks.harness.footprint import allocated, growth, resident_mb, start_up
from benchmarks.scans.scans import reference_scan
from engine.networks.bundle import shipped_bundle_path

MEGABYTE = 2**20

OBJECTS = 20_000
"""Bytes of Python objects around an array, and of the tracer itself."""

NOISE_MB = 8.0
"""What the resident memory of a process that does nothing in particular may change by."""

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc"
)


def test_a_call_that_allocates_and_lets_go_shows_at_its_peak() -> None:
    def call() -> float:
        return float(np.ones(MEGABYTE, np.uint8).sum(dtype=np.uint8))

    found = allocated(call, 10)
    assert MEGABYTE <= found["peak_bytes"] <= MEGABYTE + OBJECTS
    assert abs(found["left_bytes_per_call"]) < OBJECTS


def test_what_a_call_leaves_behind_is_seen() -> None:
    kept: list[Any] = []
    found = allocated(lambda: kept.append(np.ones(MEGABYTE, np.uint8)), 10)
    assert len(kept) == 11  # one before the count
    assert found["left_bytes_per_call"] == pytest.approx(MEGABYTE, abs=OBJECTS)
    assert found["peak_bytes"] == pytest.approx(10 * MEGABYTE, abs=10 * OBJECTS)


def test_a_call_that_takes_nothing_shows_nothing() -> None:
    place = np.zeros(1000)
    found = allocated(lambda: np.add(place, 1.0, out=place), 100)
    assert found["peak_bytes"] < OBJECTS
    assert abs(found["left_bytes_per_call"]) < OBJECTS / 100


@needs_proc
def test_a_leak_shows_in_the_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "SETTLE", 3)
    kept: list[mmap.mmap] = []
    numbers: list[int] = []

    def leak(number: int) -> None:
        # Pages of their own: what an array takes may have been resident before, freed by another test.
        pages = mmap.mmap(-1, MEGABYTE)
        np.frombuffer(pages, np.uint8)[:] = 1
        kept.append(pages)
        numbers.append(number)

    before = resident_mb()
    found = growth(leak, 64)
    assert numbers == [*range(3), *range(64)]
    assert found["frames"] == 64
    assert found["growth_mb"] == pytest.approx(64, abs=NOISE_MB)
    assert found["before_mb"] == pytest.approx(before + 3, abs=NOISE_MB)


@needs_proc
def test_without_a_leak_nothing_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "SETTLE", 3)
    place = np.zeros(MEGABYTE)
    found = growth(lambda number: place.fill(number), 64)
    assert abs(found["growth_mb"]) < NOISE_MB


@needs_proc
@pytest.mark.usefixtures("small_world")
def test_a_fresh_process_is_ready_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "STARTS", 2)
    began = time.perf_counter()
    found = start_up(reference_scan(0.5).operators, shipped_bundle_path("reference"))
    assert 0 < found["seconds"] < time.perf_counter() - began
    assert 10 < found["resident_mb"] < 10_000  # megabytes, neither bytes nor pages
    assert found["torch"] is False


@pytest.mark.usefixtures("small_world")
def test_the_median_of_all_starts_but_the_first_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([9.0, 3.0, 1.0, 5.0])

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        assert Path(command[-2]).is_file()
        assert command[-1] == str(tmp_path)
        started = next(seconds)
        return SimpleNamespace(stdout=json.dumps({"seconds": started, "resident_mb": 10 * started}))

    monkeypatch.setattr(footprint, "STARTS", 4)
    monkeypatch.setattr(subprocess, "run", run)
    assert start_up(reference_scan(0.5).operators, tmp_path) == {"seconds": 3.0, "resident_mb": 30.0}
