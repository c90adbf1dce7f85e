"""Quality against time: the front, the choice, what stopwatches count, and what is published."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from torch import nn

from benchmarks import width_study
from benchmarks.contestants.network_timing import NetworkSize, Stopwatch, time_solves
from benchmarks.pages.width_pages import choice, front, rdn_sizes
from benchmarks.scans.scans import frames_of_test_split, reference_scan
from benchmarks.width_study import Network
from engine.mpi.metrics import psnr_db
from engine.networks.bundle import Bundle, load_bundle
from engine.reconstruction.method_settings import MethodSettings
from engine.reconstruction.methods import default_bundle_path, open_method
from engine.reconstruction.reconstructor import Reconstructor

COLUMNS = {"parameters", "features", "blocks", "layers", "lc_features", "evaluations"}
FIGURES = {"ms", "rdn_ms", "lc_ms", "rest_ms", "psnr_15", "psnr_25", "psnr_35", "psnr_mean", "n"}

SINGLE = 1e-3
"""dB; the same single-precision operations, summed over frames in another order."""


def row(method: str, evaluations: int, ms: float, psnr: float) -> dict[str, Any]:
    return {"method": method, "evaluations": evaluations, "ms": ms, "psnr_mean": psnr}


ROWS = [
    row("reference", 10, 20.0, 34.0),
    row("reference", 25, 50.0, 37.0),
    row("small", 10, 8.0, 33.0),
    row("small", 20, 16.0, 36.0),
    row("small", 50, 40.0, 36.5),
]
REFERENCE = {"reference": ("reference", 25)}


def small_network(name: str) -> Network:
    """Any networks will do: what is tested is the benchmark."""
    size = {"parameters": 1, "features": 2, "blocks": 3, "layers": 4, "lc_features": 5}
    return Network(name, load_bundle(default_bundle_path()), {"of": name}, size)


def test_the_front_leaves_out_what_is_slower_and_no_better() -> None:
    kept = [(entry["method"], entry["evaluations"]) for entry in front(ROWS[::-1])]
    assert kept == [("small", 10), ("small", 20), ("small", 50), ("reference", 25)]


def test_of_equal_times_the_better_stays_and_of_equal_quality_the_faster() -> None:
    rows = [row("a", 1, 5.0, 30.0), row("b", 1, 5.0, 31.0), row("c", 1, 6.0, 31.0)]
    assert [entry["method"] for entry in front(rows)] == ["b"]


def test_the_choice_is_the_best_below_half_the_time() -> None:
    text = choice(ROWS, REFERENCE)
    assert "**small with 20 evaluations**: 16.0 ms, 36.00 dB, 1.00 dB less" in text
    assert "ships" not in text.split("**")[2]
    assert "It ships as `fast`." in choice(ROWS, {**REFERENCE, "fast": ("small", 20)})
    other = choice(ROWS, {**REFERENCE, "fast": ("small", 10)})
    assert "What ships as `fast` is small with 10 evaluations: 8.0 ms, 33.00 dB." in other


def test_no_choice_without_the_reference_or_anything_fast() -> None:
    assert "no choice" in choice(ROWS, {})
    assert "no choice" in choice(ROWS, {"reference": ("reference", 15)})
    assert "Nothing is that fast" in choice(ROWS[1:2], REFERENCE)


def test_sizes_are_shown_with_their_rate() -> None:
    sizes = [
        {"network": "rdn", "features": 8, "blocks": 2, "layers": 3, "parameters": 10_000, "ms": 0.169},
        {"network": "rdn", "features": 16, "blocks": 2, "layers": 3, "parameters": 40_000, "ms": 0.338},
        {"network": "lc", "features": 4, "blocks": None, "layers": None, "parameters": 9, "ms": 0.1},
    ]
    assert rdn_sizes(sizes) == [
        {"blocks x layers": "2 x 3", "8 features": "0.17 (20)", "16 features": "0.34 (40)"}
    ]  # 338 voxels


def test_a_stopwatch_adds_up_and_changes_nothing() -> None:
    watch = Stopwatch(lambda v: 2 * v)
    for expected in (2.0, 4.0):
        before = watch.milliseconds
        assert_array_equal(watch(np.array([expected / 2])), [expected])
        assert watch.milliseconds > before


@pytest.mark.usefixtures("small_world")
def test_parts_of_an_evaluation_add_up_to_the_solve() -> None:
    """With a single measurement, medians are the figures themselves."""
    operators = reference_scan(0.5).operators
    frames = frames_of_test_split(0.5, 1, 25.0)
    measurement = width_study._normalized(frames.rows[0], operators)
    bundles: dict[str, Bundle] = {"any": load_bundle(default_bundle_path())}
    rows = time_solves(bundles, operators, [measurement], (1, 3))
    assert [entry["evaluations"] for entry in rows] == [1, 3]
    for entry in rows:
        parts = entry["rdn_ms"] + entry["lc_ms"] + entry["rest_ms"]
        assert entry["ms"] == pytest.approx(entry["evaluations"] * parts)
        assert min(entry["rdn_ms"], entry["lc_ms"], entry["rest_ms"]) > 0


def test_untrained_networks_see_the_noise_level_and_have_the_size_asked_for() -> None:
    """Weights counted by hand, biases included."""
    rdn = NetworkSize("rdn", 2, 1, 1).build()
    entry, three_by_three, fusions, last = 2 * 2 * 9 + 2, 2 * 2 * 9 + 2, (4 * 2 + 2) + (2 * 2 + 2), 2 * 9 + 1
    assert _parameters(rdn) == entry + 3 * three_by_three + fusions + last
    lc = NetworkSize("lc", 3).build()
    assert _parameters(lc) == (5 * 3 * 3 + 3) + (3 * 3 * 3 + 3) + (3 * 2 * 3 + 2)


def _parameters(network: nn.Module) -> int:
    return sum(weights.numel() for weights in network.parameters())


@pytest.mark.usefixtures("small_world")
def test_every_network_is_published_with_its_quality_at_every_number_of_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(width_study, "_networks", lambda *_: [small_network("one"), small_network("two")])
    monkeypatch.setattr(width_study, "WIDTHS", (2,))
    monkeypatch.setattr(width_study, "BLOCKS", (1,))
    monkeypatch.setattr(width_study, "LAYERS", (1,))
    monkeypatch.setattr(width_study, "LC_FEATURES", (2,))
    monkeypatch.setattr(width_study, "QUICK_FRAMES", 2)
    monkeypatch.setattr(width_study, "QUICK_EVALUATIONS", (2, 4))
    width_study.run(quick=True, output=tmp_path)
    record = json.loads((tmp_path / "width_study.json").read_text())
    rows = [entry for entry in record["rows"] if entry["method"] != "untrained"]
    assert [(entry["method"], entry["evaluations"]) for entry in rows] == [
        ("one", 2), ("one", 4), ("two", 2), ("two", 4),
    ]  # fmt: skip
    assert all(entry.keys() >= COLUMNS | FIGURES for entry in rows)
    untrained = [entry["network"] for entry in record["rows"] if entry["method"] == "untrained"]
    assert untrained == ["rdn", "lc"]
    assert all(entry["ms"] > 0 for entry in record["rows"])
    assert (tmp_path / "width_study.png").stat().st_size > 0
    # The figures are those of the method as a user runs it.
    for entry in rows[:2]:
        scan, frames = reference_scan(0.5), frames_of_test_split(0.5, 2, 25.0)
        settings = MethodSettings(max_iterations=entry["evaluations"], tolerance=0.0)
        solver = Reconstructor(open_method("deq", scan.operators, settings))
        done = solver.reconstruct_frames(frames.rows * scan.operators.scale)
        images = np.stack([frame.image[0] for frame in done])
        expected = float(psnr_db(images, frames.truth).mean())
        assert entry["psnr_25"] == pytest.approx(expected, abs=SINGLE)
