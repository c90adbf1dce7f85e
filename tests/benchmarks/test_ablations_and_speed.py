"""Benchmarks of ablations and speed, whole but small: complete rows, the paper's figures, what is missing."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from benchmarks import ablation, convergence, eager_speed, initialisation, quality_time
from benchmarks.contestants.contestant import Contestant, as_shipped
from benchmarks.contestants.model_shelf import MissingModelError, ModelShelf, ShelfBundle
from benchmarks.contestants.paper import PaperTime
from benchmarks.convergence import SHOWN, follow
from benchmarks.quality_time import LIMITS, beside_table_iii
from engine.fixed_point.solve import FixedPointConfig, solve_fixed_point
from engine.reconstruction.method_settings import MethodSettings
from engine.reconstruction.methods import default_bundle_path

COLUMNS = {"method", "snr_db", "train_gradient", "test_gradient", "n"}

QUALITY = {"psnr_mean", "psnr_std", "ssim_mean", "ssim_std", "ms"}

SINGLE = 1e-5
"""Relative rounding of the engine against double precision over a few iterations."""


def published(output: Path, name: str) -> tuple[list[dict[str, Any]], str, list[str]]:
    """Return rows, page and what was left out, after checking that the files are complete."""
    record = json.loads((output / f"{name}.json").read_text())
    assert (output / f"{name}.png").stat().st_size > 0
    assert all(row.keys() >= COLUMNS for row in record["rows"])
    return record["rows"], (output / f"{name}.md").read_text(), record["left_out"]


def shipped_deq(name: str, method: str = "deq", iterations: int = 2) -> Contestant:
    """Any networks will do: what is tested is the benchmark."""
    return Contestant(name, method, MethodSettings(max_iterations=iterations), {})


def trained_but(*missing: str) -> Callable[..., Contestant]:
    """Stand in for `trained_at`: every model is there but those of some methods."""

    def trained_at(method: str, snr: float, _: ModelShelf, name: str | None = None) -> Contestant:
        if method in missing:
            raise MissingModelError(f"no {method}-{snr:g}")
        return shipped_deq(name or method)

    return trained_at


def absent(*_: object) -> Contestant:
    raise MissingModelError("no published weights here")


def row(method: str, train: float, test: float, psnr: float) -> dict[str, Any]:
    return {"method": method, "train_snr_db": train, "snr_db": test, "psnr_mean": psnr}


def test_gains_are_averages_over_common_training_snrs() -> None:
    rows = [
        *(row("deq", train, 35.0, psnr) for train, psnr in ((15.0, 30.0), (25.0, 34.0), (35.0, 38.0))),
        *(row("end-to-end", train, 35.0, psnr) for train, psnr in ((25.0, 33.0), (35.0, 35.0), (45.0, 0.0))),
        row("deq", 15.0, 15.0, 99.0),  # at the training SNR: not in Fig. 3
        row("end-to-end", 15.0, 15.0, 0.0),
    ]
    assert ablation.gains(rows) == [
        {"over": "end-to-end", "gain": 2.0, "paper": 2.1, "training SNRs": "25, 35 dB"}
    ]


@pytest.mark.usefixtures("small_world")
def test_ablation_tests_every_model_at_35_db_and_at_its_own_snr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablation, "FRAMES", 1)
    monkeypatch.setattr(ablation, "trained_at", trained_but("unrolled"))
    monkeypatch.setattr(ablation, "authors_deq", absent)
    ablation.run(quick=False, output=tmp_path)
    rows, page, left_out = published(tmp_path, "ablation")
    assert all(row.keys() >= QUALITY for row in rows)
    pairs = [(5.0, 35.0), (5.0, 5.0), (15.0, 35.0), (15.0, 15.0), (25.0, 35.0), (25.0, 25.0)]
    pairs += [(35.0, 35.0), (45.0, 35.0), (45.0, 45.0)]
    for method in ("deq", "deq-ball", "end-to-end"):
        found = [(row["train_snr_db"], row["snr_db"]) for row in rows if row["method"] == method]
        assert found == pairs
    assert "unrolled, trained at 5 dB: no unrolled-5" in left_out
    assert "| end-to-end | 0.00 | 2.10 | 5, 15, 25, 35, 45 dB |" in page  # one bundle for all: no gain


@pytest.mark.parametrize("benchmark", [ablation, convergence])
@pytest.mark.usefixtures("small_world")
def test_without_any_model_one_line_says_what_to_do(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "trained_at", absent)
    monkeypatch.setattr(benchmark, "authors_deq", absent)
    with pytest.raises(MissingModelError, match=r"python -m benchmarks\.contestants\.ablation_models"):
        benchmark.run(quick=True, output=tmp_path)


@pytest.mark.parametrize("memory", [0, 3])
def test_one_solve_holds_the_images_of_all_shorter_ones(memory: int) -> None:
    """Against separate solves; without acceleration against the iterates themselves."""
    rng = np.random.default_rng(0)
    matrix = 0.9 * np.linalg.qr(rng.standard_normal((6, 6)))[0].astype(np.float32)
    shift = rng.standard_normal(6).astype(np.float32)
    start = np.zeros(6, np.float32)

    def step(z: np.ndarray, out: np.ndarray) -> None:
        out[...] = z @ matrix.T + shift

    config = FixedPointConfig(memory=memory, tolerance=0.0, max_iterations=9)
    images, residuals = follow(step, start[None], 4, config)
    z = start
    for limit in range(1, 10):
        z = matrix @ z + shift
        solution = solve_fixed_point(step, start, replace(config, max_iterations=limit))
        expected = solution.value if memory else z
        assert_allclose(images[limit - 1], np.maximum(expected[:4], 0), rtol=SINGLE)
        assert_array_equal(residuals[:limit], solution.stats.residuals)


@pytest.mark.usefixtures("small_world")
def test_convergence_follows_every_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained_at(method: str, *_: object) -> Contestant:
        return shipped_deq(method, method)

    monkeypatch.setattr(convergence, "QUICK_FRAMES", 1)
    monkeypatch.setattr(convergence, "trained_at", trained_at)
    monkeypatch.setattr(convergence, "authors_deq", absent)
    convergence.run(quick=True, output=tmp_path)
    rows, page, left_out = published(tmp_path, "convergence")
    methods = ["deq, Anderson", "deq, plain", "deq-ball, Anderson", "deq-ball, plain", "unrolled"]
    assert [(row["method"], row["iterations"]) for row in rows] == [
        (method, number) for method in methods for number in SHOWN
    ]
    by_key = {(row["method"], row["iterations"]): row["psnr_mean"] for row in rows}
    for number in SHOWN:  # both are the plain iteration with the l2 ball, here with the same network
        assert by_key["unrolled", number] == by_key["deq-ball, plain", number]
    assert by_key["deq, Anderson", 1] == by_key["deq, plain", 1]
    assert by_key["deq, Anderson", 25] != by_key["deq, plain", 25]
    assert left_out == ["deq, authors' weights, plain: no published weights here"]
    assert "| unrolled |" in page


@pytest.mark.usefixtures("small_world")
def test_a_method_converges_to_what_the_engine_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last image of the recorded solve against the shipped method with the same limit."""
    limit = 7
    config = FixedPointConfig(tolerance=0.0, max_iterations=limit)
    iteration = convergence.Iteration("deq", shipped_deq("deq"), config)
    course = convergence._course(iteration, 2)
    operators = convergence.reference_scan(0.5).operators
    solver = replace(as_shipped("deq"), settings=MethodSettings(max_iterations=limit, tolerance=0.0))
    frames = convergence.frames_of_test_split(0.5, 2, convergence.SNR)
    images = ablation.reconstruct(solver.open(operators), frames.rows)[0]
    expected = ablation.image_quality(images, frames.truth)
    assert_allclose(course.psnr_mean[-1], expected["psnr_mean"], rtol=SINGLE)
    assert_allclose(course.psnr_std[-1], expected["psnr_std"], atol=SINGLE * expected["psnr_mean"])


@pytest.mark.usefixtures("small_world")
def test_initialisation_stands_beside_the_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_: ModelShelf, name: str) -> ShelfBundle:
        if name == "init-random-both":
            raise MissingModelError("no init-random-both")
        return ShelfBundle(default_bundle_path("deq"), name)

    monkeypatch.setattr(initialisation, "QUICK_FRAMES", 1)
    monkeypatch.setattr(ModelShelf, "run", run)
    initialisation.run(quick=True, output=tmp_path)
    rows, page, left_out = published(tmp_path, "initialisation")
    assert {row["method"]: row["paper_psnr"] for row in rows} == {
        "both pre-trained": 37.6,
        "random RDN": 29.9,
        "random LC": 20.2,
        "LC pre-trained to noise-free data": 29.9,
    }
    assert left_out == ["both random: no init-random-both"]
    assert f"| random LC | {rows[0]['psnr_mean']:.2f} | 0.00 | 20.20 | 17.40 |" in page


def test_validations_count_from_the_end_of_pretraining(tmp_path: Path) -> None:
    entries = [
        {"step": 2000, "phase": "pretrain-lc", "loss": 0.1},
        {"step": 2000, "phase": "before stage-1", "validation_psnr": 30.0},
        {"step": 2001, "phase": "stage-1", "loss": 0.1},
        {"step": 2050, "phase": "stage-1", "validation_psnr": 35.0},
    ]
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert initialisation.validations(log) == [(0, 30.0), (50, 35.0)]


def test_table_iii_has_the_methods_of_both() -> None:
    figures = {"iterations": 3.0, "psnr_mean": 30.0, "ms": 2.0, "ms_p99": 4.0}
    rows = [
        {"method": "art", "snr_db": 35.0, "limit": 5, **figures, "ms": 0.0},
        {"method": "art", "snr_db": 35.0, "limit": None, **figures},
        {"method": "art", "snr_db": 15.0, "limit": None, **figures, "ms": 0.0},
        {"method": "unrolled", "snr_db": 35.0, "limit": None, **figures},
    ]
    table = {line["method"]: line for line in beside_table_iii(rows)}
    assert set(table) == {"art", "unrolled", *quality_time.TABLE_III}
    assert (table["art"]["ms"], table["art"]["paper: iterations"], table["art"]["paper: ms"]) == (
        2.0,
        10,
        6966,
    )
    assert (table["unrolled"]["ms"], table["unrolled"]["paper: ms"]) == (2.0, None)
    assert (table["dip"]["ms"], table["dip"]["paper: ms"]) == (None, 235162)


@pytest.mark.usefixtures("small_world")
def test_quality_time_measures_every_method_at_several_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality_time, "QUICK_FRAMES", 1)
    monkeypatch.setattr(quality_time, "trained_at", absent)
    monkeypatch.setattr(quality_time, "LIMITS", {method: LIMITS[method][:3] for method in LIMITS})
    quality_time.run(quick=True, output=tmp_path)
    rows, _, left_out = published(tmp_path, "quality_time")
    assert all(row.keys() >= QUALITY for row in rows)
    assert [row["limit"] for row in rows if (row["method"], row["snr_db"]) == ("deq", 15.0)] == [None, 3]
    assert [row["iterations"] for row in rows if row["method"] == "deq"] == [25, 3, 25, 3]
    assert all(row["ms_p99"] >= row["ms"] > 0 for row in rows)
    assert "unrolled, 35 dB: no published weights here" in left_out


@pytest.mark.usefixtures("small_world")
def test_the_engine_and_its_eager_opponents_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {method: PaperTime(2, 1.0) for method in eager_speed.WANTED}
    monkeypatch.setattr(eager_speed, "QUICK_FRAMES", 1)
    monkeypatch.setattr(eager_speed, "TABLE_III", few)
    eager_speed.run(quick=True, output=tmp_path)
    rows, _, _ = published(tmp_path, "eager_speed")
    assert [row["method"] for row in rows] == list(eager_speed.WANTED)
    for row in rows:
        assert row["iterations"] == 2
        assert row["engine_error"] < SINGLE
        assert_allclose(row["ratio"], row["eager_ms"] / row["ms"])
