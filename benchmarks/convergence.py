"""How the iterative methods approach their images (the paper's Fig. 4), for up to 100 iterations.

The models were trained and are tested at 35 dB. Every frame is solved once, for all iterations and without a
tolerance, and the image of every iteration is looked at on the way.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.contestants.contestant import Contestant, authors_deq, trained_at
from benchmarks.contestants.model_shelf import MissingModelError, ModelShelf
from benchmarks.harness.benchmark_run import BenchmarkRun
from benchmarks.harness.record import markdown_table
from benchmarks.scans.scans import TRAIN_GRADIENT, frames_of_test_split, reference_scan
from engine.arrays import Float32Array
from engine.fixed_point.solve import FixedPointConfig, FixedPointSolver, FramesStep
from engine.measurement.normalization import NormalizedMeasurement, normalize
from engine.mpi.metrics import psnr_db
from engine.networks.bundle import Bundle, load_bundle
from engine.networks.sessions import OnnxConsistency, OnnxPrior
from engine.operators.operators import Operators
from engine.solvers.admm.ball_step import BallStep
from engine.solvers.deq.admm_step import AdmmStep
from export.errors import ExportError, ParityError

FRAMES = 256
QUICK_FRAMES = 4

SNR = 35.0
"""Of training and test, in dB."""

SHOWN = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100)
"""Iterations that become rows."""

IN_TABLE = (1, 2, 5, 10, 15, 25, 50, 100)
"""Iterations of the table at the top of the page."""

LARGEST_DROP = 15.0
"""dB below the best that the picture shows."""

ANDERSON = FixedPointConfig(tolerance=0.0, max_iterations=SHOWN[-1])
PLAIN = replace(ANDERSON, memory=0)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Iteration:
    """A model and how its map is iterated."""

    name: str
    contestant: Contestant
    config: FixedPointConfig


@dataclass(frozen=True)
class Course:
    """Figures after each iteration of one method, all of shape (iterations,).

    Attributes
    ----------
    psnr_mean, psnr_std : ndarray of float64
        Of the images that a solve with this limit gives, in dB.
    residual_median : ndarray of float64
        Relative residual of the iteration itself.
    """

    psnr_mean: NDArray[np.float64]
    psnr_std: NDArray[np.float64]
    residual_median: NDArray[np.float64]


class RecordedStep:
    """A fixed-point map that keeps the image of every state it returns.

    Parameters
    ----------
    step : FramesStep
        The map of one frame; the image is the first part of its state.
    n_voxels : int
        Length N of that part.
    """

    def __init__(self, step: FramesStep, n_voxels: int) -> None:
        self._step = step
        self._n_voxels = n_voxels
        self.images: list[Float32Array] = []

    def __call__(self, z: NDArray[Any], out: NDArray[Any]) -> None:
        """Apply the map and keep a copy of the image."""
        self._step(z, out)
        self.images.append(out[0, : self._n_voxels].copy())

    def keep(self, frames: Sequence[int]) -> None:
        """Pass on which frames go on."""
        self._step.keep(frames)


def run(quick: bool, output: Path) -> None:
    """Measure every model that is there and write convergence.json, convergence.md and convergence.png."""
    count = QUICK_FRAMES if quick else FRAMES
    config = {"quick": quick, "frames": count, "seed": 0, "split": "test"}
    with BenchmarkRun("convergence", output, config) as benchmark:
        iterations = _iterations(benchmark)
        benchmark.expect(len(iterations) * len(SHOWN))
        for iteration in iterations:
            _rows(benchmark, iteration, count)
        rows = benchmark.rows
        blocks = [
            f"Trained and tested at {SNR:g} dB. pSNR in dB of the image after so many evaluations of the "
            "map: with Anderson's method that of the smallest residual so far, otherwise that of the last "
            "one. unrolled was trained for 5 iterations.",
            markdown_table(_by_iteration(rows), ("method", *map(str, IN_TABLE))),
            "In the paper's Fig. 4 deq passes unrolled beyond 5 iterations, deq-ball converges slowly to a "
            "lower level, and unrolled falls off dramatically beyond the 5 it was trained for.",
            "![pSNR and residual against iterations](convergence.png)",
            "## All figures\n\n`residual_median`: ||f(z) - z|| / ||f(z)|| over the whole state.",
        ]
        benchmark.publish("Convergence of the iterative methods", blocks, {"convergence.png": _picture(rows)})


def _iterations(benchmark: BenchmarkRun) -> list[Iteration]:
    shelf = ModelShelf()
    wanted = [
        ("deq, Anderson", partial(trained_at, "deq", SNR, shelf), ANDERSON),
        ("deq, plain", partial(trained_at, "deq", SNR, shelf), PLAIN),
        ("deq-ball, Anderson", partial(trained_at, "deq-ball", SNR, shelf), ANDERSON),
        ("deq-ball, plain", partial(trained_at, "deq-ball", SNR, shelf), PLAIN),
        ("unrolled", partial(trained_at, "unrolled", SNR, shelf), PLAIN),
        ("deq, authors' weights, plain", partial(authors_deq, SNR, shelf), PLAIN),
    ]
    found = []
    for name, make, config in wanted:
        try:
            found.append(Iteration(name, make(), config))
        except (MissingModelError, ExportError, ParityError) as error:
            benchmark.leave_out(f"{name}: {error}")
    if not found:
        raise MissingModelError(
            f"no model trained at {SNR:g} dB is here; expected some in models/ablation: train them with "
            "python -m benchmarks.contestants.ablation_models"
        )
    return found


def _rows(benchmark: BenchmarkRun, iteration: Iteration, count: int) -> None:
    course = cache(partial(_course, iteration, count))  # solved once, if any of its rows is not there yet
    for number in SHOWN:

        def measure(index: int = number - 1) -> dict[str, Any]:
            figures = course()
            return {
                "psnr_mean": float(figures.psnr_mean[index]),
                "psnr_std": float(figures.psnr_std[index]),
                "residual_median": float(figures.residual_median[index]),
                "n": count,
            }

        key = {
            "method": iteration.name,
            "snr_db": SNR,
            "train_gradient": TRAIN_GRADIENT,
            "test_gradient": TRAIN_GRADIENT,
            "iterations": number,
        }
        identity = {**iteration.contestant.identity, "solver": iteration.config.to_dict()}
        benchmark.row(key, measure, identity)


def _course(iteration: Iteration, count: int) -> Course:
    """Solve every frame of the test split once."""
    operators = reference_scan(TRAIN_GRADIENT).operators
    frames = frames_of_test_split(TRAIN_GRADIENT, count, SNR)
    contestant = iteration.contestant
    prepare = MAPS[contestant.method](operators, load_bundle(contestant.settings.model))
    psnr, residuals = [], []
    for rows, truth in zip(frames.rows, frames.truth, strict=True):
        measurement = normalize(rows * operators.scale, operators)
        assert measurement is not None  # no phantom is empty
        step, start, measured = prepare(measurement)
        images, found = follow(step, start, operators.n_voxels, iteration.config, measured)
        images = measurement.intensity * images.reshape(-1, *truth.shape)
        psnr.append(psnr_db(images, np.broadcast_to(truth, images.shape)))
        residuals.append(found)
    return Course(np.mean(psnr, axis=0), np.std(psnr, axis=0), np.median(residuals, axis=0))


Prepare = Callable[[NormalizedMeasurement], tuple[FramesStep, Float32Array, int | None]]
"""Takes a measurement and returns the map that a method iterates for it, the first state (1, n), and how much
of the state residuals look at."""


def learned_map(operators: Operators, bundle: Bundle) -> Prepare:
    """Return what prepares h_theta with Psi_LC (Eqs. 15-17)."""
    step = AdmmStep(operators, OnnxPrior(bundle), OnnxConsistency(bundle))

    def prepare(measurement: NormalizedMeasurement) -> tuple[FramesStep, Float32Array, int | None]:
        return step, step.begin([measurement], bundle.manifest.dual_start), step.measured

    return prepare


def ball_map(operators: Operators, bundle: Bundle) -> Prepare:
    """Return what prepares the map with the l2 ball (Eqs. 5-10), on N + 1 coordinates of the data."""
    step = BallStep(operators, OnnxPrior(bundle))

    def prepare(measurement: NormalizedMeasurement) -> tuple[FramesStep, Float32Array, int | None]:
        return step, step.begin([measurement], bundle.manifest.dual_start), None

    return prepare


MAPS = MappingProxyType({"deq": learned_map, "deq-ball": ball_map, "unrolled": ball_map})
"""The map of each method."""


def follow(
    step: FramesStep,
    start: Float32Array,
    n_voxels: int,
    config: FixedPointConfig,
    measured: int | None = None,
) -> tuple[Float32Array, NDArray[np.float64]]:
    """Solve once, and return what solves with every lower limit would have given.

    Parameters
    ----------
    step : FramesStep
        Fixed-point map whose state begins with the image (N,).
    start : ndarray of float32, shape (1, n)
    n_voxels : int
        N.
    config : FixedPointConfig
        Tolerance 0: all iterations are wanted. Without acceleration (memory 0) the image is that of the last
        evaluation, else that of the smallest residual so far, as `FixedPointSolver` returns it.
    measured : int, optional
        Leading entries of the state that residuals look at.

    Returns
    -------
    images : ndarray of float32, shape (iterations, N)
        Non-negative.
    residuals : ndarray of float64, shape (iterations,)
    """
    recorded = RecordedStep(step, n_voxels)
    (solution,) = FixedPointSolver(config, measured).solve(recorded, start)
    residuals = np.array(solution.stats.residuals)
    chosen = np.arange(len(residuals))
    if config.memory > 0:
        is_best = residuals == np.minimum.accumulate(residuals)
        chosen = np.maximum.accumulate(np.where(is_best, chosen, 0))
    images: Float32Array = np.maximum(np.stack(recorded.images)[chosen], 0)
    return images, residuals


def _by_iteration(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return one line per method and one column per iteration of `IN_TABLE`."""
    table: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["iterations"] in IN_TABLE:
            line = table.setdefault(row["method"], {"method": row["method"]})
            line[str(row["iterations"])] = row["psnr_mean"]
    return list(table.values())


def _picture(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for method in dict.fromkeys(row["method"] for row in rows):
        chosen = [row for row in rows if row["method"] == method]
        iterations = [row["iterations"] for row in chosen]
        style = "." + ("--" if method.endswith("plain") else "-")
        left.plot(iterations, [row["psnr_mean"] for row in chosen], style, label=method)
        right.plot(iterations, [row["residual_median"] for row in chosen], style, label=method)
    levels = [row["psnr_mean"] for row in rows]
    left.set(ylabel="mean pSNR in dB", title=f"trained and tested at {SNR:g} dB (Fig. 4)")
    left.set_ylim(max(min(levels), max(levels) - LARGEST_DROP) - 1, max(levels) + 1)
    right.set(ylabel="median relative residual", yscale="log", title="change by one evaluation")
    for axes in (left, right):
        axes.set(xlabel="evaluations of the map", xscale="log", xticks=(1, 2, 5, 10, 25, 50, 100))
        axes.set_xticklabels(["1", "2", "5", "10", "25", "50", "100"])
        axes.grid(alpha=0.3)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure
