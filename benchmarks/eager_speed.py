"""The engine's solvers against the same algorithms in eager PyTorch, frame by frame, on the same core.

Both sides start from the same normalised measurement, do the same iterations with the same weights, and must
give the same image. The clock covers the solve; normalising, which both need, is measured apart. Repetitions
alternate, so that whatever else the machine does hits both.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from itertools import cycle, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from benchmarks.contestants.eager_torch import (
    EagerFrame,
    TotalVariationPrior,
    admm,
    eager_frame,
    kaczmarz,
    l1_prior,
    network_prior,
)
from benchmarks.contestants.paper import TABLE_III
from benchmarks.harness.benchmark_run import BenchmarkRun
from benchmarks.harness.record import ROOT, markdown_table
from benchmarks.scans.scans import TRAIN_GRADIENT, frames_of_test_split, reference_scan
from engine.machine.arithmetic import single_blas_thread
from engine.measurement.normalization import normalize
from engine.reconstruction.method_settings import MethodSettings
from engine.reconstruction.methods import open_method
from engine.solvers.admm.hand_crafted import PROX_ITERATIONS, PROX_TOLERANCE
from engine.solvers.kaczmarz import row_orders
from trainer.loop.checkpoint import PRETRAINED_WEIGHTS, load_networks

FRAMES = 6
QUICK_FRAMES = 2

SNR = 25.0

WANTED: Mapping[str, float] = MappingProxyType(
    {"art": 5.0, "admm-l1": 5.0, "admm-tv": 5.0, "admm-hybrid": 5.0, "pp-mpi": 2.5}
)
"""How many times as fast as eager PyTorch the engine is to be, by method."""

DENOISER_RUN = ROOT / "models" / "pretrain"
"""Run whose Psi_RDN is the denoiser that ships."""

P = ParamSpec("P")
T = TypeVar("T")

Row = Mapping[str, Any]
Weights = Mapping[str, float]
Settings = Mapping[str, Any]
EagerSolve = Callable[[EagerFrame, Weights], torch.Tensor]
"""Makes the image (N,) of a frame with hand-set weights by name."""


def run(quick: bool, output: Path) -> None:
    """Measure every pair and write eager_speed.json, eager_speed.md and eager_speed.png."""
    count = QUICK_FRAMES if quick else FRAMES
    config = {"quick": quick, "frames": count, "seed": 0, "split": "test", "torch": torch.__version__}
    # Quickly, only as the paper iterates: a tuned solve of ART takes eager PyTorch ten seconds and more.
    pairs: list[tuple[str, int | None, int]] = [
        (method, TABLE_III[method].iterations, 1) for method in WANTED
    ]
    if not quick:
        pairs += [(method, None, 1) for method in WANTED]
        pairs += [(method, TABLE_III[method].iterations, 2) for method in WANTED]
    with BenchmarkRun("eager_speed", output, config) as benchmark:
        benchmark.expect(len(pairs))
        for method, limit, number in pairs:
            _row(benchmark, method, limit, number, count)
        rows = benchmark.rows
        blocks = [
            f"Single frames of {SNR:g} dB. The engine on one thread, eager PyTorch {torch.__version__} on "
            "one or two: the same algorithm, iterations and weights, on the whole system matrix "
            "(`benchmarks/contestants/eager_torch.py`). `ratio` is that of the median times of the solve "
            "alone; "
            "`ratio_frame` counts normalising the measurement, which both need, on both sides.",
            markdown_table(_summary(rows)),
            "![Times of the engine and of eager PyTorch](eager_speed.png)",
            "## All figures\n\n`limit`: iterations as in the paper's Table III, or (-) the method's default. "
            "`difference`: largest ||engine - eager|| / ||eager|| of an image. `engine_error` and "
            "`eager_error`: that of one image from the eager code in double precision, which is not timed.",
        ]
        benchmark.publish("Speed against eager PyTorch", blocks, {"eager_speed.png": _picture(rows)})


def _row(benchmark: BenchmarkRun, method: str, limit: int | None, threads: int, count: int) -> None:
    def measure() -> dict[str, Any]:
        previous = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return compare(method, limit, count)
        finally:
            torch.set_num_threads(previous)

    key = {
        "method": method,
        "snr_db": SNR,
        "train_gradient": TRAIN_GRADIENT,
        "test_gradient": TRAIN_GRADIENT,
        "limit": limit,
        "eager_threads": threads,
    }
    benchmark.row(key, measure)


def compare(method: str, limit: int | None, count: int) -> dict[str, Any]:
    """Time both sides on frames of the test split, in turn, after one frame to warm up."""
    operators = reference_scan(TRAIN_GRADIENT).operators
    frames = frames_of_test_split(TRAIN_GRADIENT, count, SNR)
    # Tolerance 0: both sides do all iterations.
    solver = open_method(method, operators, MethodSettings(max_iterations=limit, tolerance=0.0))
    eager = EAGER[method](solver.settings)
    times: dict[str, list[float]] = {"normalise": [], "engine": [], "eager": []}
    differences, errors = [], dict[str, float]()
    for rows in np.concatenate([frames.rows[:1], frames.rows]) * operators.scale:
        with single_blas_thread():
            measurement, milliseconds = _timed(normalize, rows, operators)
            assert measurement is not None  # no phantom is empty
            times["normalise"].append(milliseconds)
            (solution,), milliseconds = _timed(solver.solve, [measurement])
            times["engine"].append(milliseconds)
        frame, weights = eager_frame(operators, measurement), solution.stats.weights
        with torch.inference_mode():
            image, milliseconds = _timed(eager, frame, weights)
            times["eager"].append(milliseconds)
            differences.append(_relative_difference(solution.value, image))
            if not errors:
                exact = eager(frame.in_double_precision(), weights)
                errors["engine_error"] = _relative_difference(solution.value, exact)
                errors["eager_error"] = _relative_difference(image, exact)
    counted = {side: np.array(values[1:]) for side, values in times.items()}
    median = {side: float(np.median(values)) for side, values in counted.items()}
    return {
        "iterations": solver.settings["iterations"],
        "ms": median["engine"],
        "ms_p99": float(np.percentile(counted["engine"], 99)),
        "eager_ms": median["eager"],
        "eager_ms_p99": float(np.percentile(counted["eager"], 99)),
        "normalise_ms": median["normalise"],
        "ratio": median["eager"] / median["engine"],
        "ratio_frame": (median["eager"] + median["normalise"]) / (median["engine"] + median["normalise"]),
        "wanted": WANTED[method],
        "difference": max(differences),
        **errors,
        "n": count,
    }


def _timed(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> tuple[T, float]:
    """Return what a call returns, and the milliseconds it took."""
    started = time.perf_counter()
    found = call(*args, **kwargs)
    return found, 1e3 * (time.perf_counter() - started)


def _relative_difference(image: ArrayLike, reference: ArrayLike) -> float:
    exact = np.asarray(reference, np.float64)
    return float(np.linalg.norm(np.asarray(image, np.float64) - exact) / np.linalg.norm(exact))


def _art(settings: Settings) -> EagerSolve:
    energies = np.square(reference_scan(TRAIN_GRADIENT).operators.system_matrix).sum(axis=1)
    sweeps = settings["iterations"]
    orders = row_orders(energies, settings["row_order"], sweeps, settings["seed"]).tolist()

    def solve(frame: EagerFrame, weights: Weights) -> torch.Tensor:
        return kaczmarz(frame, weights["lambda"], islice(cycle(orders), sweeps))

    return solve


def _admm_l1(settings: Settings) -> EagerSolve:
    return lambda frame, weights: admm(frame, l1_prior(weights["l1"]), settings["iterations"])


def _admm_tv(settings: Settings) -> EagerSolve:
    def solve(frame: EagerFrame, weights: Weights) -> torch.Tensor:
        l1 = weights.get("l1", 0.0)  # the hybrid has it too
        prior = TotalVariationPrior(weights["tv"], l1, PROX_TOLERANCE, PROX_ITERATIONS)
        return admm(frame, prior, settings["iterations"])

    return solve


def _pp_mpi(settings: Settings) -> EagerSolve:
    denoiser, _, _ = load_networks(DENOISER_RUN, PRETRAINED_WEIGHTS)
    networks = {torch.float32: denoiser, torch.float64: deepcopy(denoiser).double()}

    def solve(frame: EagerFrame, weights: Weights) -> torch.Tensor:
        prior = network_prior(networks[frame.data.dtype], weights["scale"])
        return admm(frame, prior, settings["iterations"])

    return solve


EAGER: Mapping[str, Callable[[Settings], EagerSolve]] = MappingProxyType(
    {"art": _art, "admm-l1": _admm_l1, "admm-tv": _admm_tv, "admm-hybrid": _admm_tv, "pp-mpi": _pp_mpi}
)
"""Makes the opponent of a method, given the settings of the engine's solver."""


def _summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    columns = ("method", "iterations", "eager_threads", "ms", "eager_ms", "ratio", "ratio_frame", "wanted")
    return [{column: row[column] for column in columns} for row in rows]


def _picture(rows: Sequence[Row]) -> Figure:
    chosen = [row for row in rows if row["eager_threads"] == 1]
    places = np.arange(len(chosen))
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots()
    own, eager = ([row[key] for row in chosen] for key in ("ms", "eager_ms"))
    axes.bar(places - 0.2, own, 0.4, label="engine")
    bars = axes.bar(places + 0.2, eager, 0.4, label="eager PyTorch")
    axes.bar_label(bars, [f"{row['ratio']:.1f}x" for row in chosen], padding=2)
    axes.set(yscale="log", ylabel="milliseconds per solve", title="one frame on one thread", xticks=places)
    axes.set_xticklabels([f"{row['method']}\n{row['iterations']} iterations" for row in chosen], fontsize=8)
    axes.set_ylim(bottom=min(own) / 3, top=3 * max(eager))
    axes.grid(alpha=0.3, axis="y")
    axes.legend()
    return figure
