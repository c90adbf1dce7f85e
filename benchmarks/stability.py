"""Whether the models that ship come to rest: spectral radius of h_theta, and quality against evaluations.

A radius below 1 at the fixed point says that the iteration converges there, and that the gradient of Eq. (29)
exists; flat quality says that it does not matter when the iteration stops. Networks run in torch, from the
run folders in `models/`, as the engine's graphs have no derivative.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.harness.benchmark_run import BenchmarkRun
from benchmarks.harness.record import ROOT, markdown_table
from benchmarks.scans.scans import GRADIENTS, TRAIN_GRADIENT, TRAIN_SNRS, frames_of_test_split, reference_scan
from engine.errors import InputError
from engine.fixed_point.solve import FixedPointConfig
from engine.mpi.metrics import psnr_db
from trainer.data.linear_operators import TorchOperators
from trainer.loop.checkpoint import BEST_WEIGHTS, CONFIG_FILE, load_model
from trainer.loop.validation import reconstruct
from trainer.models.equilibrium import EquilibriumModel
from trainer.stability.stability import METHOD, Stability, measure_stability

FRAMES = 16
QUICK_FRAMES = 4

MODELS = ROOT / "models"
NAMES = ("reference", "fast")
"""Run folders of the models that ship."""

EVALUATIONS = (10, 15, 25, 50, 100)
"""Budgets at which the quality is looked at; reconstructions take 25."""

AT_LEAST = 25
"""From this budget on, quality should be flat."""

BATCH = 16
"""Frames at once; bounds the memory of the Krylov spaces."""

QUANTILES = (0.05, 0.5, 0.95)

Row = Mapping[str, Any]


def run(quick: bool, output: Path) -> None:
    """Measure every model that is there and write stability.json, stability.md and stability.png."""
    count = QUICK_FRAMES if quick else FRAMES
    config = {"quick": quick, "frames": count, "seed": 0, "split": "test", "measured": METHOD}
    with BenchmarkRun("stability", output, config) as benchmark:
        names = [name for name in NAMES if _is_there(name, benchmark)]
        if not names:
            raise InputError(f"no finished run in {MODELS}; expected models/reference: train it")
        benchmark.expect(len(names) * len(GRADIENTS) * len(TRAIN_SNRS))
        for name in names:
            for gradient in GRADIENTS:
                for snr in TRAIN_SNRS:
                    _row(benchmark, name, count, snr, gradient)
        rows = benchmark.rows
        blocks = [
            f"Spectral radius of the Jacobian of one step at the fixed point: {METHOD}. Median and 95 % "
            "quantile over the frames, share of the frames below 1, and share at which the radius is known.",
            markdown_table(_radii(rows)),
            f"## Quality against evaluations\n\nMean pSNR in dB; `drop`: how far the mean at {AT_LEAST} or "
            "more evaluations falls below the best of all.",
            markdown_table(_qualities(rows)),
            "![Spectral radius and pSNR against evaluations](stability.png)",
            "## All figures",
        ]
        benchmark.publish("Stability of the fixed point", blocks, {"stability.png": _picture(rows)})


def _is_there(name: str, benchmark: BenchmarkRun) -> bool:
    there = all((MODELS / name / file).is_file() for file in (BEST_WEIGHTS, CONFIG_FILE))
    if not there:
        benchmark.leave_out(f"{name}: models/{name} holds no weights")
    return there


@cache
def _model(name: str) -> tuple[EquilibriumModel, FixedPointConfig]:
    """Return a model and how it reconstructs."""
    model, config = load_model(MODELS / name)
    if not isinstance(model, EquilibriumModel):
        raise InputError(f"models/{name} is a run of {config.method}; expected a method with a fixed point")
    return model, config.reconstruction


@cache
def _operators(gradient: float) -> TorchOperators:
    return TorchOperators(reference_scan(gradient).operators)


def _row(benchmark: BenchmarkRun, name: str, count: int, snr: float, gradient: float) -> None:
    key = {"method": name, "snr_db": snr, "train_gradient": TRAIN_GRADIENT, "test_gradient": gradient}
    files = (MODELS / name / file for file in (BEST_WEIGHTS, CONFIG_FILE))
    identity = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    benchmark.row(key, partial(measure_row, name, count, snr, gradient), identity)


def measure_row(name: str, count: int, snr: float, gradient: float) -> dict[str, Any]:
    """Return the figures of one model, SNR in dB and gradient in T/m over `count` test frames."""
    model, config = _model(name)
    operators, frames = _operators(gradient), frames_of_test_split(gradient, count, snr)
    rows = torch.tensor(frames.rows, dtype=torch.float32)
    found = [measure_stability(model, operators, part, config) for part in torch.split(rows, BATCH)]
    psnr = {
        budget: float(psnr_db(_images(model, operators, rows, config, budget), frames.truth).mean())
        for budget in EVALUATIONS
    }
    return {
        **_distribution(found),
        **{f"psnr_at_{budget}": value for budget, value in psnr.items()},
        "n": count,
    }


def _images(
    model: EquilibriumModel,
    operators: TorchOperators,
    rows: torch.Tensor,
    config: FixedPointConfig,
    budget: int,
) -> NDArray[np.float32]:
    """Reconstruct with exactly so many evaluations of the map."""
    solver = replace(config, max_iterations=budget, tolerance=0.0)
    return np.concatenate(
        [reconstruct(model, operators, part, solver)[0] for part in torch.split(rows, BATCH)]
    )


def _distribution(found: Sequence[Stability]) -> dict[str, Any]:
    radius = np.concatenate([part.radius for part in found])
    settled = np.concatenate([part.settled for part in found])
    residual = np.concatenate([part.residual for part in found])
    low, median, high = (float(value) for value in np.quantile(radius, QUANTILES))
    return {
        "radius_low": low,
        "radius_median": median,
        "radius_high": high,
        "radius_max": float(radius.max()),
        "share_below_1": float(np.mean(radius < 1.0)),
        "share_settled": float(settled.mean()),
        "residual_median": float(np.median(residual)),
        "residual_max": float(residual.max()),
    }


def drop_after(psnr: Mapping[int, float], budget: int) -> float:
    """Return how far the pSNR at a budget or a larger one falls below the best of all, in dB.

    Parameters
    ----------
    psnr : mapping of int to float
        pSNR by budget.
    budget : int
    """
    return max(psnr.values()) - min(value for evaluations, value in psnr.items() if evaluations >= budget)


def _psnr(row: Row) -> dict[int, float]:
    return {budget: row[f"psnr_at_{budget}"] for budget in EVALUATIONS}


def _radii(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [
        _setting(row)
        | {
            "median": f"{row['radius_median']:.4f}",
            "95 %": f"{row['radius_high']:.4f}",
            "largest": f"{row['radius_max']:.4f}",
            "below 1": f"{100 * row['share_below_1']:.0f} %",
            "known": f"{100 * row['share_settled']:.0f} %",
            "residual": f"{row['residual_median']:.0e}",
        }
        for row in rows
    ]


def _qualities(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [
        _setting(row)
        | {f"{budget}": f"{value:.2f}" for budget, value in _psnr(row).items()}
        | {"drop": f"{drop_after(_psnr(row), AT_LEAST):.2f}"}
        for row in rows
    ]


def _setting(row: Row) -> dict[str, str]:
    return {
        "model": row["method"],
        "T/m": f"{row['test_gradient']:g}",
        "SNR": f"{row['snr_db']:g} dB",
    }


def _courses(rows: Sequence[Row]) -> Iterator[tuple[str, float, list[Row]]]:
    for name, gradient in dict.fromkeys((row["method"], row["test_gradient"]) for row in rows):
        yield (
            name,
            gradient,
            [row for row in rows if (row["method"], row["test_gradient"]) == (name, gradient)],
        )


def _picture(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index, (name, gradient, course) in enumerate(_courses(rows)):
        snr = [row["snr_db"] for row in course]
        label, colour = f"{name}, {gradient:g} T/m", f"C{index}"
        left.plot(snr, [row["radius_median"] for row in course], "o-", color=colour, label=label)
        low, high = ([row[key] for row in course] for key in ("radius_low", "radius_high"))
        left.fill_between(snr, low, high, color=colour, alpha=0.15, lw=0)
        for row in course if gradient == TRAIN_GRADIENT else []:
            right.plot(EVALUATIONS, list(_psnr(row).values()), "o-", color=colour, alpha=0.8)
            if index == 0:
                right.annotate(f" {row['snr_db']:g} dB", (EVALUATIONS[-1], row[f"psnr_at_{EVALUATIONS[-1]}"]))
    left.axhline(1.0, color="0.4", lw=0.8)
    left.set(xlabel="SNR in dB", ylabel="spectral radius", title="median, and 5 to 95 % of the frames")
    right.set(
        xlabel="evaluations of the map",
        ylabel="mean pSNR in dB",
        title=f"at {TRAIN_GRADIENT} T/m",
        xscale="log",
    )
    right.set_xticks(EVALUATIONS, [str(budget) for budget in EVALUATIONS])
    right.minorticks_off()
    right.set_xlim(right=1.4 * EVALUATIONS[-1])
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend(frameon=False)
    return figure
