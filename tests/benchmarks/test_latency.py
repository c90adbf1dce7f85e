"""The benchmark of latency, whole but small: ratios by hand, complete files, every target on the page."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import latency
from benchmarks.contestants import latency_contestants
from benchmarks.contestants.latency_contestants import Timed, baselines, best_eager, eager_solves, equilibria
from benchmarks.harness import footprint, latency_clock, roofline
from benchmarks.latency import ratios
from benchmarks.pages import latency_pages, latency_stages
from benchmarks.scans.scans import frames_of_test_split, reference_scan

SINGLE = 3e-5
"""Relative error of images after 25 accelerated evaluations in single precision, or of another batch size."""

TIMED_KEYS = {"name", "backend", "batch", "iterations", "p50_ms", "p99_ms", "p999_ms", "psnr"}

MOVING = ["moving phantom, cold", "moving phantom, cold, as short", "moving phantom, warm"]

BASELINES = {"least-squares", "tikhonov", "art", "admm-l1", "admm-tv", "admm-hybrid", "pp-mpi"}
"""The methods that work as installed, besides deq."""


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """The eager solves set the threads of PyTorch."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def few_calls(small_world: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "QUICK_CALLS", 2)
    monkeypatch.setattr(latency, "SOAK_FRAMES", 10)
    for module in (latency, latency_contestants):
        monkeypatch.setattr(module, "BATCH", 3)
    monkeypatch.setattr(latency_clock, "PAUSE", 0.0)
    monkeypatch.setattr(latency_clock, "WARM_UP", 1)
    monkeypatch.setattr(roofline, "SECONDS", 0.01)
    monkeypatch.setattr(footprint, "SETTLE", 5)
    monkeypatch.setattr(footprint, "STARTS", 2)


def timed_row(name: str, p50: float, psnr: float = 30.0, iterations: float = 25.0, **more: float) -> Any:
    return {"name": name, "p50_ms": p50, "psnr": psnr, "iterations": iterations, **more}


def test_the_ratios_are_those_of_the_rows() -> None:
    rows = [
        timed_row("eager", 80.0, psnr=36.5),
        timed_row("slower eager", 100.0),
        timed_row("deq, 25 evaluations, 1 core", 20.0, psnr=36.25, p99_ms=25.0),
        timed_row("deq, 25 evaluations, 2 cores", 16.0, p99_ms=24.0),
        timed_row("deq, to tolerance, 1 core", 5.0, psnr=36.0),
        timed_row("deq, to tolerance, 2 cores", 4.0),
        timed_row("deq, batch of 64, 1 core", 640.0),
        timed_row("deq, batch of 64, 2 cores", 320.0),
        timed_row("deq, 64 single frames, 1 core", 1280.0),
        timed_row("deq, 64 single frames, 2 cores", 1024.0),
        timed_row("moving phantom, cold", 20.0, psnr=34.0),
        timed_row("moving phantom, cold, as short", 8.0, psnr=32.0, iterations=10.0),
        timed_row("moving phantom, warm", 8.0, psnr=33.5, iterations=10.0),
        {"name": "deq, 25 evaluations, GPU", "note": "not run: no GPU"},
    ]
    facts = {
        "roofline": {"least_ms": 8.0, "least_ms_two_cores": 4.0},
        "start_up": {"seconds": 0.75, "resident_mb": 90.0, "torch": False},
        "memory": {"soak": {"frames": 50_000, "growth_mb": 0.25}},
    }
    assert ratios(rows, facts, "eager") == pytest.approx(
        {
            "eager_over_25_evaluations_1_core": 4.0,
            "eager_over_25_evaluations_2_cores": 5.0,
            "eager_over_tolerance_1_core": 16.0,
            "eager_over_tolerance_2_cores": 20.0,
            "psnr_lost_by_tolerance_db": 0.25,
            "psnr_lost_against_eager_db": 0.25,
            "over_roofline_1_core": 2.5,
            "over_roofline_2_cores": 4.0,
            "p99_over_p50_1_core": 1.25,
            "p99_over_p50_2_cores": 1.5,
            "warm_over_cold_evaluations": 0.4,
            "psnr_lost_by_warm_db": 0.5,
            "psnr_lost_by_cold_as_short_db": 2.0,
            "batch_throughput_1_core": 2.0,
            "batch_throughput_2_cores": 3.2,
            "batch_on_2_cores_over_frames_on_1": 4.0,
            "start_up_seconds": 0.75,
            "resident_mb": 90.0,
            "growth_mb_per_100000_frames": 0.5,
        }
    )


@pytest.mark.usefixtures("small_world")
def test_each_frame_has_its_own_truth_and_the_snrs_alternate() -> None:
    scan = reference_scan(0.5)
    rows, truth = latency._frames(2, scan.operators)
    n_rows = scan.operators.n_rows
    assert rows.shape == (6, n_rows)
    assert truth.shape == (6, scan.operators.n_voxels)
    noise = rows - truth @ scan.measured.real_rows().T
    expected = [frames_of_test_split(0.5, 2, snr).noise_std for snr in (15.0, 25.0, 35.0)] * 2
    # The rms of R values scatters by a share 1 / sqrt(2 R).
    found = np.sqrt(np.mean(noise**2, axis=1)) / scan.operators.scale
    np.testing.assert_allclose(found, expected, rtol=4 / np.sqrt(2 * n_rows))


@pytest.mark.usefixtures("few_calls")
def test_all_solves_of_the_same_networks_give_the_same_image() -> None:
    """Time is compared only between contestants that do the same."""
    operators = reference_scan(0.5).operators
    rows = frames_of_test_split(0.5, 3, 25.0).rows * operators.scale
    solves = [one for one in equilibria(operators) if one.name.startswith(("deq, 25", "deq, batch"))]
    eager = list(eager_solves(operators))
    assert [(one.threads, one.batch) for one in solves] == [(1, 1), (1, 3), (2, 1), (2, 3)]
    assert [one.threads for one in eager] == [1, 1, 2, 2]
    expected, _ = solves[0].call(rows[:1])
    for one in [*solves, *eager]:
        images, iterations = one.call(rows[: one.batch])
        assert images.shape == (one.batch, operators.n_voxels)
        assert iterations == 25
        assert np.linalg.norm(images[0] - expected[0]) <= SINGLE * np.linalg.norm(expected[0])


@pytest.mark.usefixtures("few_calls")
def test_a_solve_to_tolerance_says_how_many_evaluations_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_contestants, "TOLERANCE", 0.03)
    operators = reference_scan(0.5).operators
    rows = frames_of_test_split(0.5, 1, 25.0).rows * operators.scale
    early = [one for one in equilibria(operators) if one.name.startswith("deq, to tolerance")]
    assert len(early) == 2
    for one in early:
        _, iterations = one.call(rows)
        assert 1 <= iterations < 25


@pytest.mark.usefixtures("few_calls")
def test_the_baselines_are_all_that_ships() -> None:
    assert {one.name for one in baselines(reference_scan(0.5).operators)} == BASELINES


def test_the_fastest_eager_solve_is_the_one_of_the_smallest_median(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the mean, the second one would win."""
    elapsed = {"slow": [3.0, 3.0, 3.0], "steady": [2.0, 2.0, 2.0], "outlier": [1.0, 1.0, 9.0]}
    now = 0.0

    def candidate(name: str) -> Timed:
        left = iter(elapsed[name])

        def call(rows: Any) -> Any:
            nonlocal now
            assert rows.shape == (1, 4)
            now += next(left)

        return Timed(name, "stand-in", 1, 1, call)

    monkeypatch.setattr(latency_contestants, "time", SimpleNamespace(perf_counter=lambda: now))
    found = best_eager([candidate(name) for name in elapsed], np.zeros((3, 4)))
    assert found.name == "outlier"


@pytest.mark.usefixtures("few_calls")
def test_everything_is_published(tmp_path: Path) -> None:
    latency.run(quick=True, output=tmp_path)
    record = json.loads((tmp_path / "latency.json").read_text())
    page = (tmp_path / "latency.md").read_text()
    assert (tmp_path / "latency.png").stat().st_size > 0

    measured = [row for row in record["rows"] if row.get("p50_ms") is not None]
    names = [row["name"] for row in measured]
    assert len(set(names)) == len(names)
    for cores in ("1 core", "2 cores"):
        for way in (
            "deq, 25 evaluations",
            "deq, to tolerance",
            "fast",
            "deq, batch of 3",
            "deq, 3 single frames",
        ):
            assert f"{way}, {cores}" in names
    assert names[-3:] == MOVING
    assert set(names) > BASELINES
    assert [row["backend"] for row in measured].count("torch-eager") == 1
    for row in measured:
        assert row.keys() >= TIMED_KEYS
        assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["p999_ms"]
        assert row["iterations"] <= 25 or row["name"] in BASELINES
        assert np.isfinite(row["psnr"])
        if row["name"] not in MOVING:
            assert row["ms_per_frame"] == row["p50_ms"] / row["batch"]
    by_name = {row["name"]: row for row in measured}
    assert by_name["deq, 25 evaluations, 2 cores"]["psnr"] == pytest.approx(
        by_name["deq, 25 evaluations, 1 core"]["psnr"], abs=0.01
    )
    assert by_name["moving phantom, warm"]["iterations"] < by_name["moving phantom, cold"]["iterations"]

    left = [row for row in record["rows"] if row.get("p50_ms") is None]
    assert {row["backend"] for row in left} == {"onnxruntime-cuda", "tensorrt"}
    assert all(row["note"].startswith("not run") for row in left)

    least = record["roofline"]
    for key in ("flops_per_s", "bytes_per_s", "least_ms"):
        assert 0 < least[key] < np.inf
    assert least["least_ms"] == pytest.approx(sum(least["stages_ms"].values()))
    assert least["least_ms_overlapped"] <= least["least_ms"] * (1 + 1e-9)
    assert set(record["stages_ms"]) == set(latency_stages.STAGES)
    assert record["start_up"]["torch"] is False
    eager = next(row["name"] for row in measured if row["backend"] == "torch-eager")
    assert record["ratios"] == pytest.approx(ratios(record["rows"], record, eager))

    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    first = cells.index(["line", "seen", "wanted"]) + 2  # below the rule
    table = cells[first : first + len(latency_pages.TARGETS)]
    for (line, seen, wanted), target in zip(table, latency_pages.TARGETS, strict=True):
        assert (line, wanted) == (target[0], target[2])
        # Two decimals, or two digits of small figures.
        assert float(seen) == pytest.approx(record["ratios"][target[1]], rel=0.05, abs=0.005)
    assert {key for _, key, _ in latency_pages.TARGETS} < set(record["ratios"])
    assert eager in page
    assert "not run: no GPU" in page
