"""Quality of a run's networks on phantoms it never saw, beside the baselines it must beat."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from engine.errors import InputError
from engine.mpi.simulation.phantoms import Split
from trainer.config import TrainConfig
from trainer.data.linear_operators import TorchOperators
from trainer.data.problem import TrainingScan, load_images, load_scan
from trainer.loop.checkpoint import PRETRAINED_WEIGHTS, load_model
from trainer.loop.validation import FixedMeasurements, assess, least_squares, measure_once, reconstruct
from trainer.models.anderson import BatchSolution
from trainer.models.reconstruction_model import ReconstructionModel

NOISE_SEED = 20230804
"""Seed of the measurement noise; fixed, so that runs are compared on the same data."""

BATCH = 64
"""Measurements solved together; bounds the memory of a large evaluation."""


@dataclass(frozen=True)
class EvaluationRow:
    """Means over the measurements of one method at one SNR.

    Attributes
    ----------
    method : str
    snr : float
        In dB (Eq. 36).
    count : int
        Measurements.
    psnr, psnr_std : float
        Mean and standard deviation of the pSNR (Eq. 37) in dB.
    ssim : float
        SSIM of whole-image statistics (Eq. 38).
    iterations, converged, residual_p95 : float or None
        Mean evaluations of the map, share of solves that met the tolerance and 95th percentile of the
        final residuals; None for a method without a fixed point.
    """

    method: str
    snr: float
    count: int
    psnr: float
    psnr_std: float
    ssim: float
    iterations: float | None = None
    converged: float | None = None
    residual_p95: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """A table of figures and what they were taken on.

    Attributes
    ----------
    run : str
        Name of the run.
    system_matrix, split : str
        What was measured.
    rows : tuple of EvaluationRow
    """

    run: str
    system_matrix: str
    split: str
    rows: tuple[EvaluationRow, ...]

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return asdict(self)

    def to_markdown(self) -> str:
        """Return the figures as a Markdown table."""
        lines = [
            f"Run {self.run}, system matrix {self.system_matrix}, {self.split} images.",
            "",
            "| method | SNR / dB | images | pSNR / dB | SSIM | iterations | converged | residual p95 |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        lines += [_markdown_row(row) for row in self.rows]
        return "\n".join(lines) + "\n"


def evaluate(
    run_dir: Path | str,
    split: Split = "test",
    snr: Sequence[float] = (15.0, 25.0, 35.0),
    count: int = 256,
    scan: TrainingScan | None = None,
    images: NDArray[np.float32] | None = None,
) -> Evaluation:
    """Reconstruct emulated measurements with least squares, the pre-trained start and the fitted networks.

    Parameters
    ----------
    run_dir : path
        Run folder.
    split : str, optional
        "train", "validation" or "test".
    snr : sequence of float, optional
        Measurement SNRs in dB; every image is measured at each.
    count : int, optional
        Number of images.
    scan : TrainingScan, optional
        System matrix; by default the run's.
    images : ndarray of float32, shape (n, Ny, Nx), optional
        Images to measure instead of the run's own phantoms.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        If the folder holds no run with validated weights, or there is nothing to evaluate.
    """
    run_dir = Path(run_dir)
    fitted, config = load_model(run_dir)
    if not snr:
        raise InputError("no SNR to evaluate at; expected at least one value in dB")
    if count < 1:
        raise InputError(f"count is {count}; expected at least one image")
    scan = load_scan(config.data) if scan is None else scan
    if images is None:
        images = load_images(config.data, split, count, scan.operators.grid)
    operators = TorchOperators(scan.operators)
    data_matrix = torch.tensor(scan.data_matrix)
    methods = _methods(run_dir, fitted, config, operators)
    rows = []
    for level in snr:
        measured = measure_once(images, data_matrix, np.full(len(images), float(level)), NOISE_SEED)
        rows += [_row(name, method, measured, float(level)) for name, method in methods.items()]
    return Evaluation(config.name, config.data.system_matrix, split, tuple(rows))


Method = Callable[[torch.Tensor], tuple[NDArray[np.float32], BatchSolution | None]]


def _methods(
    run_dir: Path, fitted: ReconstructionModel, config: TrainConfig, operators: TorchOperators
) -> dict[str, Method]:
    pretrained, _ = load_model(run_dir, PRETRAINED_WEIGHTS)
    solver = config.reconstruction
    return {
        "least squares": lambda rows: (least_squares(operators, rows), None),
        "pre-trained": lambda rows: reconstruct(pretrained, operators, rows, solver),
        "fitted": lambda rows: reconstruct(fitted, operators, rows, solver),
    }


def _row(name: str, method: Method, measured: FixedMeasurements, snr: float) -> EvaluationRow:
    """Run one method in batches and average."""
    parts = [method(rows) for rows in torch.split(measured.rows, BATCH)]
    quality = assess(np.concatenate([images for images, _ in parts]), measured.truth)
    figures = EvaluationRow(
        method=name,
        snr=snr,
        count=len(quality.psnr),
        psnr=float(quality.psnr.mean()),
        psnr_std=float(quality.psnr.std()),
        ssim=float(quality.ssim.mean()),
    )
    solutions = [solution for _, solution in parts if solution is not None]
    if not solutions:
        return figures
    residual = torch.cat([solution.residual for solution in solutions])
    return EvaluationRow(
        **{
            **asdict(figures),
            "iterations": torch.cat([s.iterations for s in solutions]).double().mean().item(),
            "converged": torch.cat([s.converged for s in solutions]).double().mean().item(),
            "residual_p95": residual.quantile(0.95).item(),
        }
    )


def _markdown_row(row: EvaluationRow) -> str:
    cells = [
        row.method,
        f"{row.snr:g}",
        f"{row.count}",
        f"{row.psnr:.2f} ± {row.psnr_std:.2f}",
        f"{row.ssim:.3f}",
        _shown(row.iterations, ".1f"),
        _shown(row.converged, ".0%"),
        _shown(row.residual_p95, ".1e"),
    ]
    return "| " + " | ".join(cells) + " |"


def _shown(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
