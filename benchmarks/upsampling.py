"""Twice the resolution by a bicubically upsampled system matrix (the paper's Fig. 9): 13 x 26 and 26 x 52.

Phantoms are measured on a grid four times as fine as the calibration's (Eq. 34), so neither matrix is the one
that made the data. Networks and weights are those of the 13 x 26 grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.contestants.contestant import Contestant, contestants
from benchmarks.contestants.model_shelf import ModelShelf
from benchmarks.harness.benchmark_run import BenchmarkRun
from benchmarks.harness.quality import effort, image_quality, reconstruct
from benchmarks.harness.record import markdown_table
from benchmarks.pages.image_matrix import Column, comparison, draw_matrix
from benchmarks.scans.drawn_phantoms import y_shape
from benchmarks.scans.scans import EXPERIMENT_SNR, TRAIN_GRADIENT, reference_scan
from engine.measurement.file_rows import whiten_rows
from engine.mpi.metrics import psnr_db
from engine.mpi.resampling import bicubic_upsampling
from engine.mpi.simulation.phantoms import box_average, fine_vessel_images
from engine.mpi.simulation.scan import REFINEMENT, continuous_signals, preset_scanner
from engine.operators.factorisation import make_operators
from engine.operators.operators import Operators
from engine.tuning.emulation import INTENSITY

FACTORS = {"13 x 26": 1, "26 x 52": 2}
"""Refinement of each reconstruction grid."""

Y_SHAPE, VESSELS = "Y", "vessels"

COUNTS = {Y_SHAPE: 4, VESSELS: 16}
QUICK_COUNTS = {Y_SHAPE: 2, VESSELS: 4}
"""Frames: the Y with noise of its own each time, and vessel trees."""

TOO_SLOW = "dip: it takes minutes per frame on the finer grid"

SHOWN = {Y_SHAPE: 0, VESSELS: 3}
"""Frame of each phantom in the picture."""

ERROR_LIMIT = 0.3
"""Largest error with a colour of its own, relative to the phantom's peak."""

IMAGE = "image"
"""Column of the kept rows that holds the image; it is not published."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class FineFrames:
    """Measurements of finely resolved phantoms.

    Attributes
    ----------
    images : ndarray of float32, shape (F, Ny * REFINEMENT, Nx * REFINEMENT)
        The phantoms.
    whitened : ndarray of float64, shape (F, R)
        Noisy whitened rows.
    """

    images: NDArray[np.float32]
    whitened: NDArray[np.float64]

    def truth(self, factor: int) -> NDArray[np.float32]:
        """Return the mean concentration in the voxels of the calibration's grid refined by `factor`."""
        return box_average(self.images, REFINEMENT // factor)


def run(quick: bool, output: Path) -> None:
    """Reconstruct on both grids and write upsampling.json, upsampling.md and upsampling.png."""
    counts = QUICK_COUNTS if quick else COUNTS
    config = {"quick": quick, "frames": counts, "seed": 0, "split": "test"}
    with BenchmarkRun("upsampling", output, config) as benchmark:
        field = contestants(EXPERIMENT_SNR, ModelShelf(), benchmark.leave_out)
        benchmark.leave_out(TOO_SLOW)
        benchmark.expect(len(FACTORS) * len(counts) * len(field))
        for grid in FACTORS:
            for phantom, count in counts.items():
                for contestant in field:
                    _row(benchmark, contestant, grid, phantom, count)
        rows = benchmark.rows
        blocks = [
            f"Mean pSNR in dB at {EXPERIMENT_SNR:g} dB and {TRAIN_GRADIENT} T/m. `13 x 26`: against the "
            "phantom averaged to that grid. `interpolated`: the same images interpolated bicubically, "
            "against the phantom on 26 x 52 voxels. `26 x 52`: reconstructed with the upsampled system "
            "matrix, against the same.",
            markdown_table(_beside_each_other(rows, list(counts))),
            "![The Y and a vessel on both grids](upsampling.png)",
            "## All figures",
        ]
        pictures = {"upsampling.png": _gallery(rows, counts)}
        benchmark.publish("Reconstruction with the upsampled system matrix", blocks, pictures, hidden=[IMAGE])


@cache
def _operators(grid: str) -> Operators:
    measured = reference_scan(TRAIN_GRADIENT).measured
    return make_operators(measured.upsampled(FACTORS[grid]) if FACTORS[grid] > 1 else measured)


@cache
def _frames(phantom: str, count: int) -> FineFrames:
    scanner = preset_scanner(f"reference-{TRAIN_GRADIENT}")
    rng = np.random.default_rng(9)
    if phantom == Y_SHAPE:
        images = y_shape(scanner.grid.refined(REFINEMENT))[None]
    else:
        images = fine_vessel_images("test", count, scanner.grid, 0, REFINEMENT)[0]
        images *= rng.uniform(*INTENSITY, (count, 1, 1)).astype(np.float32)
    clean = whiten_rows(continuous_signals(scanner, images), _operators("13 x 26")).astype(np.float64)
    levels = 20 * np.log10(np.linalg.norm(clean, axis=1) / np.sqrt(clean.shape[1]))
    noise_std = 10 ** ((levels.mean() - EXPERIMENT_SNR) / 20)
    noise = noise_std * rng.standard_normal((count, clean.shape[1]))
    return FineFrames(np.broadcast_to(images, (count, *images.shape[1:])), clean + noise)


def _row(benchmark: BenchmarkRun, contestant: Contestant, grid: str, phantom: str, count: int) -> None:
    def measure() -> dict[str, Any]:
        operators = _operators(grid)
        frames = _frames(phantom, count)
        images, done = reconstruct(contestant.open(operators), frames.whitened / operators.scale)
        interpolated = None
        if FACTORS[grid] == 1:
            fine = _interpolated(images, operators, 2)
            interpolated = float(psnr_db(fine, frames.truth(2)).mean())
        return (
            image_quality(images, frames.truth(FACTORS[grid]))
            | {"psnr_interpolated": interpolated}
            | effort(done)
            | {IMAGE: images[SHOWN[phantom]].tolist()}
        )

    key = {
        "method": contestant.name,
        "snr_db": EXPERIMENT_SNR,
        "train_gradient": TRAIN_GRADIENT,
        "test_gradient": TRAIN_GRADIENT,
        "grid": grid,
        "phantom": phantom,
    }
    benchmark.row(key, measure, contestant.identity)


def _interpolated(images: NDArray[np.float32], operators: Operators, factor: int) -> NDArray[np.float32]:
    weights = bicubic_upsampling(operators.grid.volume_shape, factor)
    fine = (weights.T @ images.reshape(len(images), -1).T).T
    _, ny, nx = operators.grid.refined(factor).volume_shape
    return np.asarray(fine, np.float32).reshape(-1, ny, nx)


def _find(rows: Sequence[Row], method: str, grid: str, phantom: str) -> Row:
    wanted = (method, grid, phantom)
    return next(row for row in rows if (row["method"], row["grid"], row["phantom"]) == wanted)


def _beside_each_other(rows: Sequence[Row], phantoms: Sequence[str]) -> list[dict[str, str]]:
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        line = {"method": method}
        for phantom in phantoms:
            coarse, fine = (_find(rows, method, grid, phantom) for grid in FACTORS)
            line[f"{phantom}, 13 x 26"] = f"{coarse['psnr_mean']:.1f}"
            line[f"{phantom}, interpolated"] = f"{coarse['psnr_interpolated']:.1f}"
            line[f"{phantom}, 26 x 52"] = f"{fine['psnr_mean']:.1f}"
        lines.append(line)
    return lines


def _gallery(rows: Sequence[Row], counts: Mapping[str, int]) -> Figure:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    columns: list[Column] = []
    for phantom, count in counts.items():
        for grid, factor in FACTORS.items():
            truth = _frames(phantom, count).truth(factor)[SHOWN[phantom]]
            images = [np.array(_find(rows, method, grid, phantom)[IMAGE], np.float32) for method in methods]
            captions = [f"{psnr_db(image, truth):.1f} dB" for image in images]
            drawn = comparison(f"{phantom}, {grid}", truth, images, captions, ERROR_LIMIT)
            columns += drawn if factor > 1 else drawn[:1]
    width, height, _ = reference_scan(TRAIN_GRADIENT).operators.grid.field_of_view
    return draw_matrix(columns, ["phantom", *methods], height / width)
