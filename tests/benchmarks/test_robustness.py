"""The robustness report, whole but small: complete rows, losses that are differences, pictures."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from benchmarks import robustness
from benchmarks.contestants.contestant import Contestant, as_shipped
from benchmarks.contestants.model_shelf import MissingModelError
from benchmarks.pages import robustness_pages
from benchmarks.pages.robustness_pages import CONCENTRATION, EMPTY, PHANTOMS, TRAINING
from benchmarks.scans.perturbations import GROUPS
from benchmarks.scans.scans import SNRS, TRAIN_SNRS
from benchmarks.scans.unlike_phantoms import UNLIKE_PHANTOMS

METHODS = ("admm-hybrid", "pp-mpi", "deq")

ROUNDING = 1e-9
"""dB; two means of the same numbers in double precision."""

ONE_ITERATION = 1e-3
"""Of the peak: rounding of scaled data may end a solve that stops at its tolerance one iteration sooner (9e-5
seen with another order of sums, 1e-7 where the number of iterations is the same). An image that depended on
the scale of its data would be off by percents."""

Rows = list[dict[str, Any]]


def quick_methods() -> list[Contestant]:
    """Methods without a network under the names of the report."""
    quick = ("tikhonov", "art", "least-squares")
    return [replace(as_shipped(method), name=name) for method, name in zip(quick, METHODS, strict=True)]


def quick_model(_method: str, _snr: float, _shelf: object, name: str) -> Contestant:
    return replace(as_shipped("least-squares"), name=name)


def missing(*_: object) -> Contestant:
    raise MissingModelError("no networks here")


@pytest.fixture
def output(small_world: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(robustness, "contestants", quick_methods)
    monkeypatch.setattr(robustness, "trained_at", quick_model)
    monkeypatch.setattr(robustness, "QUICK_FRAMES", 2)
    return tmp_path


def rows_of(output: Path) -> Rows:
    return list(json.loads((output / "robustness.json").read_text())["rows"])


def test_the_report_is_complete(output: Path) -> None:
    robustness.run(quick=True, output=output)
    rows = rows_of(output)
    keys = [(row["group"], row.get("perturbation", row.get("phantom")), row["snr_db"]) for row in rows]
    wanted = [("none", "none"), (CONCENTRATION, "tracer and noise x0.1"), (PHANTOMS, EMPTY)]
    wanted += [(group.name, change.name) for group in GROUPS for change in group.perturbations]
    wanted += [(PHANTOMS, phantom) for phantom in UNLIKE_PHANTOMS]
    for group, name in wanted:
        for snr in SNRS:
            assert keys.count((group, name, snr)) == len(METHODS), (group, name, snr)
    check_losses(rows)
    check_mismatch(rows)
    scaled = [row["largest_difference"] for row in rows if row["group"] == CONCENTRATION]
    assert 0 <= max(scaled) < ONE_ITERATION
    for row in rows:
        assert not {"image", "psnr"} & row.keys()
        if row["group"] == PHANTOMS and row["phantom"] == EMPTY:
            assert 0 <= row["rms"] <= row["peak_max"]
            assert row["peak_mean"] <= row["peak_max"]
    page = (output / "robustness.md").read_text()
    for described in GROUPS:
        assert described.text in page
    for picture in ("robustness.png", "robustness-phantoms.png"):
        assert imread(output / picture).std() > 0
        assert f"]({picture})" in page


def check_losses(rows: Rows) -> None:
    """Losses are those of the same method at the same SNR."""
    plain = {(row["method"], row["snr_db"]): row["psnr_mean"] for row in rows if row["group"] == "none"}
    assert len(plain) == len(METHODS) * len(SNRS)
    groups = {group.name for group in GROUPS}
    changed = [row for row in rows if row["group"] in groups]
    assert changed
    for row in changed:
        loss = plain[row["method"], row["snr_db"]] - row["psnr_mean"]
        assert row["loss_db"] == pytest.approx(loss, abs=ROUNDING)
        assert np.isfinite(row["loss_error_db"])


def check_mismatch(rows: Rows) -> None:
    """Every model within 20 dB, its loss against the one trained at the SNR of the data."""
    models = [row for row in rows if row["group"] == TRAINING]
    pairs = {(row["train_snr_db"], row["snr_db"]) for row in models}
    assert pairs == {(a, b) for a in TRAIN_SNRS for b in SNRS if abs(a - b) <= 20}
    matched = {row["snr_db"]: row for row in models if row["train_snr_db"] == row["snr_db"]}
    assert all("loss_db" not in row for row in matched.values())
    for row in models:
        if row["train_snr_db"] != row["snr_db"]:
            loss = matched[row["snr_db"]]["psnr_mean"] - row["psnr_mean"]
            assert row["loss_db"] == pytest.approx(loss, abs=ROUNDING)
            assert row["perturbation"] == f"trained {row['train_snr_db'] - row['snr_db']:+g} dB"


def test_models_that_are_not_there_are_left_out(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robustness, "trained_at", missing)
    for module in (robustness, robustness_pages):
        monkeypatch.setattr(module, "GROUPS", GROUPS[:1])
    robustness.run(quick=True, output=output)
    assert not any(row["group"] == TRAINING for row in rows_of(output))
    assert "* no networks here" in (output / "robustness.md").read_text().splitlines()


def test_both_shipped_models_take_part() -> None:
    assert [method.name for method in robustness.contestants()] == [*METHODS, "deq, fast"]
