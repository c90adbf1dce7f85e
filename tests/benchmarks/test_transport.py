"""The benchmark of the transport, whole but short: every frame comes back, and the files are complete."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import transport
from benchmarks.__main__ import NAMES


def test_it_is_one_of_the_benchmarks() -> None:
    assert "transport" in NAMES


def test_short_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "QUICK_SECONDS", 0.3)
    monkeypatch.setattr(transport, "WARM_UP", 3)
    transport.run(quick=True, output=tmp_path)
    record = json.loads((tmp_path / "transport.json").read_text())
    assert [row["rate_hz"] for row in record["rows"]] == [46.4, 185.6]
    assert [row["n"] for row in record["rows"]] == [14, 56]  # 0.3 s of each
    for row in record["rows"]:
        assert 0 <= row["lost"] < row["n"]  # how many depends on what else the machine does
        assert row["frame_bytes"] > 60 * 130 * 8
        assert row["image_bytes"] > 26 * 13 * 4
        assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["p999_ms"] <= row["max_ms"]
        assert transport.ROUND_TRIPS not in row
        assert row["sent_hz"] <= 1.05 * row["rate_hz"]  # on a clock, so not as fast as images come back
    page = (tmp_path / "transport.md").read_text()
    assert "| 185.60 | " in page
    assert (tmp_path / "transport.png").stat().st_size > 0


def test_figures_are_the_percentiles_of_what_the_producer_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    found = transport.measure(200.0, 40)
    trips = found[transport.ROUND_TRIPS]
    assert len(trips) + found["lost"] == 40
    assert found["max_ms"] == pytest.approx(max(trips), abs=1e-4)
    assert found["p50_ms"] == pytest.approx(np.median(trips), abs=1e-4)


def test_verdicts() -> None:
    rows = [{"rate_hz": 46.4, "p99_ms": 1.5, "lost": 2}]
    assert transport.verdicts(rows) == [
        {"frames per second": 46.4, "p99 in ms": 1.5, "wanted": "< 3", "lost": 2, "wanted, lost": 0}
    ]
