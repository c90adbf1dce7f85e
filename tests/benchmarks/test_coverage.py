"""The benchmark of the intervals: figures by hand, and a whole run on a small scanner."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import coverage
from benchmarks.coverage import coverage_figures, lost, verdict
from benchmarks.scans.scans import GRADIENTS, TRAIN_SNRS
from engine.tuning.fit_intervals import CalibrationPlan


def test_figures_of_a_frame_worked_out_by_hand() -> None:
    truth = np.array([[[0.0, 0.2, 1.0], [2.0, 0.1, 0.5]]])  # relative: 0, .1, .5, 1, .05, .25
    low = np.array([[[0.0, 0.3, 0.0], [1.0, 0.0, 0.4]]])
    high = np.array([[[0.1, 0.5, 0.5], [2.0, 0.2, 0.7]]])  # misses one below, one above
    found = coverage_figures(low, high, truth)
    assert found.pop("coverage_60_100") == 1.0
    expected = {
        "coverage": 4 / 6,
        "coverage_vessels": 2 / 3,
        "coverage_outside": 2 / 3,
        "width": (0.1 + 0.2 + 0.5 + 1.0 + 0.2 + 0.3) / 6,
        "width_vessels": (0.5 + 1.0 + 0.3) / 3,
        "width_outside": (0.1 + 0.2 + 0.2) / 3,
        "missed_below": 1 / 6,
        "missed_above": 1 / 6,
        "coverage_0_10": 2 / 3,
        "coverage_10_30": 1.0,
        "coverage_30_60": 0.0,
    }
    assert found == pytest.approx(expected)


def test_a_class_without_pixels_has_no_figure() -> None:
    truth = np.ones((2, 3, 3))
    found = coverage_figures(truth - 1, truth + 1, truth)
    assert found["coverage_outside"] is None
    assert found["coverage_0_10"] is None
    assert found["coverage_60_100"] == 1.0


def row(phantom="test split", snr=15.0, all_pixels=0.9, vessels=0.9) -> dict:
    return {
        "phantom": phantom,
        "snr_db": snr,
        "test_gradient": 0.5,
        "nominal": 0.9,
        "coverage": all_pixels,
        "coverage_vessels": vessels,
    }


def test_the_page_says_where_the_coverage_is_not_as_asked() -> None:
    assert "Met at all 2 settings." in verdict([row(), row(snr=5.0, all_pixels=0.885), row("Y", 20.0, 0.3)])
    found = verdict([row(vessels=0.87), row(snr=45.0, all_pixels=0.93)])
    assert "* vessels at 15 dB, 0.5 T/m: 87.0 %" in found
    assert "* all pixels at 45 dB, 0.5 T/m: 93.0 %" in found


def test_the_page_says_which_shift_loses_coverage() -> None:
    rows = [row(vessels=0.5), row(snr=60.0, vessels=0.85), row("Y", 20.0, all_pixels=0.99)]
    assert lost(rows) == (
        "Coverage is lost at:\n\n* test split, 60 dB, 0.5 T/m: all pixels 90.0 %, vessels 85.0 %"
    )
    assert lost([row("Y", 20.0)]) == "Coverage is lost at none of them."


@pytest.mark.usefixtures("small_world")
def test_a_run_has_every_setting_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = (
        coverage._solver_settings,
        coverage._test_residuals,
        coverage._validation,
        coverage._fitted,
    )
    for function in caches:
        function.cache_clear()
    monkeypatch.setattr(coverage, "QUICK_FRAMES", 2)
    monkeypatch.setattr(coverage, "QUICK_PLAN", CalibrationPlan(frames=12, snr_db=(25.0,)))
    monkeypatch.setattr(coverage, "NOMINAL", (0.5, 0.9))
    coverage.run(quick=True, output=tmp_path)
    record = json.loads((tmp_path / "coverage.json").read_text())
    rows = record["rows"]
    on_split = [entry for entry in rows if entry["phantom"] == "test split"]
    for gradient in GRADIENTS:
        for snr in TRAIN_SNRS:
            found = [r for r in on_split if (r["test_gradient"], r["snr_db"]) == (gradient, snr)]
            assert [entry["nominal"] for entry in found] == [0.9, 0.5, 0.9]
            assert found[1]["width"] < found[2]["width"]
            assert found[1]["coverage"] <= found[2]["coverage"]
            assert all(entry["n"] == 2 for entry in found)
    assert {entry["phantom"] for entry in rows} == {"test split", "two tubes", "Y"}
    assert not any("example" in entry for entry in rows)
    assert all(entry["clamped"] == 1.0 for entry in on_split if entry["snr_db"] == 60.0)
    page = (tmp_path / "coverage.md").read_text()
    assert "Asked: within 2 % of the nominal coverage" in page
    shipped = {entry["intervals"] for entry in rows[: len(rows) // 3]}
    assert shipped == ({"fitted here"} if record["left_out"] else {"as shipped"})
    for picture in ("coverage.png", "coverage-example.png"):
        assert (tmp_path / picture).read_bytes()[:4] == b"\x89PNG"
    for function in caches:
        function.cache_clear()
