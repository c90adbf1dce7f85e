"""The benchmark of the live service, whole but small: complete files, accounts that add up."""

import json
import os
import resource
from pathlib import Path

import pytest

from benchmarks import live
from benchmarks.live import Case, resident_mb

CASES = (
    Case("strict", {"method": "least-squares"}, {"policy": "every-frame"}),
    Case("overload", {"method": "tikhonov"}, {"policy": "latest", "deadline_ms": None}, 400.0),
)


def test_every_case_has_an_account_that_adds_up(
    small_world: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(live, "CASES", CASES)
    monkeypatch.setattr(live, "QUICK_SECONDS", 0.5)
    live.run(quick=True, output=tmp_path)
    rows = json.loads((tmp_path / "live.json").read_text(encoding="utf-8"))["rows"]
    assert [row["case"] for row in rows] == ["strict", "overload"]
    for row, rate in zip(rows, (46.4, 400.0), strict=True):
        assert row["frames_in"] == row["frames_sent"] == round(0.5 * rate)
        assert row["frames_in"] == row["images_out"] + row["averaged"] + row["dropped"] + row["in_flight"]
        assert row["p50_ms"] <= row["p99_ms"] <= row["p999_ms"]
    page = (tmp_path / "live.md").read_text(encoding="utf-8")
    assert "| strict |" in page
    assert "NO" not in page
    assert (tmp_path / "live.png").stat().st_size > 10_000


def test_resident_memory_is_that_of_the_process() -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    assert 20 < resident_mb(os.getpid()) <= peak * 1.01
