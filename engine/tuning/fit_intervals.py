"""Intervals of stated coverage, fitted: split-conformal quantiles of the errors on images of known truth.

Frames that the model was not trained on are reconstructed. In every class of pixels (SNR of the frame, local
peak and share of it, `engine.networks.interval_table`) the 5 % and 95 % quantiles of the errors give the
shape of the interval, and the 90 % quantile of the errors in units of these half-widths gives its scale. That
each class has the coverage stated within itself ("Mondrian" conformal prediction, Vovk 2012) keeps the many
pixels of the background from paying for the few on vessels. Pixels of one frame are not independent, frames
are: the finite-sample correction puts a weight of 1 / (K + 1) for K frames, not pixels, at infinity (Lee,
Barber, Willett 2023).
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError
from engine.mpi.simulation.phantoms import Split
from engine.networks.interval_table import Intervals, pixel_cells
from engine.reconstruction.reconstructor import Reconstruction, Reconstructor
from engine.tuning.emulation import Scan, emulate_frames

COVERAGE = 0.9

LEVELS_DB = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0, 45.0, 50.0)
"""Mean SNRs at which frames are emulated, and near which the table has its rows. The frames of one noise
level scatter by some 4 dB, so the ends lie a step outside of the 5 to 45 dB that are to be covered."""

FRAMES = 256

PEAK_EDGES = (0.03, 0.06, 0.1, 0.15, 0.25, 0.4, 0.6, 0.8, 1.0)
"""Borders of the classes of local peak, normalised units: finer where the background ends."""

SHARE_EDGES = (0.3, 0.6, 0.85)
"""Borders of the classes of share of the local peak: beside a vessel, its edge, its flank, its core."""

TINY = 1e-9
"""Slack of counts, so that rounding adds no frame and no pixel to one."""

MIN_FRAMES = 20
"""Fewest frames whose pixels make a class of its own; a rarer class takes its quantiles from a wider one."""


@dataclass(frozen=True)
class Residuals:
    """Reconstructed pixels with their truth, in normalised units.

    Attributes
    ----------
    images, truth : ndarray of float32, shape (F, Ny, Nx)
        Images and truth, divided by the intensity of their frame.
    snr_db : ndarray of float64, shape (F,)
        SNR in dB as estimated from each frame.
    """

    images: NDArray[np.float32]
    truth: NDArray[np.float32]
    snr_db: NDArray[np.float64]


@dataclass(frozen=True)
class CalibrationPlan:
    """Plan of a calibration of intervals: the frames to emulate.

    Attributes
    ----------
    coverage : float
        Share of the truth that is to lie inside.
    snr_db : tuple of float
        Mean SNRs in dB, increasing.
    frames : int
        Number of frames per SNR.
    seed : int
        Seed of phantoms and noise at the first SNR, one more for each after it, so that no phantom serves
        twice. Seed 0 is left to the choice of weights and networks, which saw its validation phantoms.

    Raises
    ------
    InputError
        If a value is impossible, or the frames are too few for the coverage.
    """

    coverage: float = COVERAGE
    snr_db: tuple[float, ...] = LEVELS_DB
    frames: int = FRAMES
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.coverage < 1:
            raise InputError(f"coverage is {self.coverage}; expected a number between 0 and 1, such as 0.9")
        if list(self.snr_db) != sorted(set(self.snr_db)) or not self.snr_db:
            raise InputError(f"SNRs are {self.snr_db}; expected at least one, increasing")
        if self.frames < fewest_frames(self.coverage):
            raise InputError(
                f"{self.frames} frames per SNR; expected at least {fewest_frames(self.coverage)} for a "
                f"coverage of {self.coverage:g}"
            )


def fewest_frames(coverage: float) -> int:
    """Return the number of frames with which the finite-sample correction leaves a finite quantile."""
    return math.ceil(coverage / (1 - coverage) - TINY)


def calibrate_intervals(
    reconstructor: Reconstructor,
    scan: Scan,
    plan: CalibrationPlan,
    system_matrix: str,
    show: Callable[[float], None] | None = None,
) -> Intervals:
    """Emulate frames of the validation phantoms, reconstruct them and fit the intervals of the method.

    Parameters
    ----------
    reconstructor : Reconstructor
        Reconstructor on the scan's operators.
    scan : Scan
        Scan on a grid with Nz = 1.
    plan : CalibrationPlan
        Frames and coverage.
    system_matrix : str
        Name of the scan, for people.
    show : callable, optional
        Function that is told every SNR before its frames are made.

    Returns
    -------
    Intervals

    Raises
    ------
    InputError
        If the method gives no estimate of the SNR on this scan, or the frames are too few.
    """
    residuals = validation_residuals(reconstructor, scan, plan, show)
    intervals = fit_intervals(residuals, plan.coverage, plan.snr_db)
    solver = reconstructor.solver
    source = {
        "system_matrix": system_matrix,
        "split": "validation",
        "frames": plan.frames,
        "seed": plan.seed,
        "snr_db": list(plan.snr_db),
    }
    return replace(intervals, method=solver.method, settings=dict(solver.settings), source=source)


def validation_residuals(
    reconstructor: Reconstructor,
    scan: Scan,
    plan: CalibrationPlan,
    show: Callable[[float], None] | None = None,
) -> Residuals:
    """Emulate and reconstruct the frames of a plan; see `calibrate_intervals`."""
    found = []
    for index, snr in enumerate(plan.snr_db):
        if show is not None:
            show(snr)
        seed = plan.seed + index
        found.append(emulated_residuals(reconstructor, scan, plan.frames, snr, seed, "validation"))
    return Residuals(
        np.concatenate([part.images for part in found]),
        np.concatenate([part.truth for part in found]),
        np.concatenate([part.snr_db for part in found]),
    )


def emulated_residuals(
    reconstructor: Reconstructor, scan: Scan, count: int, snr: float, seed: int, split: Split
) -> Residuals:
    """Reconstruct emulated frames of one noise level; see `engine.tuning.emulation.emulate_frames`."""
    frames = emulate_frames(scan, count, snr, seed, split)
    done = reconstructor.reconstruct_frames(frames.rows * scan.operators.scale)
    return residuals_of(done, frames.truth)


def residuals_of(done: Sequence[Reconstruction], truth: NDArray[np.floating]) -> Residuals:
    """Bring reconstructed frames of one slice and their truth, float (F, Ny, Nx), to normalised units.

    Raises
    ------
    InputError
        If a frame measured zero, or its SNR is not known.
    """
    intensity = np.array([frame.report.intensity for frame in done])[:, np.newaxis, np.newaxis]
    levels = [frame.report.snr_db for frame in done]
    if None in levels or not np.all(intensity > 0):
        raise InputError(
            "a frame has no estimate of its SNR; expected frames with a signal and at least two rows per "
            "voxel; intervals cannot be had here"
        )
    images = np.stack([frame.image[0] for frame in done])
    return Residuals(
        (images / intensity).astype(np.float32),
        (truth / intensity).astype(np.float32),
        np.array(levels, np.float64),
    )


def fit_intervals(
    residuals: Residuals,
    coverage: float,
    levels_db: Sequence[float],
    peak_edges: Sequence[float] = PEAK_EDGES,
    share_edges: Sequence[float] = SHARE_EDGES,
) -> Intervals:
    """Fit the table of half-widths.

    Each frame counts for the level nearest to its SNR, and each row of the table stands at the mean SNR of
    its frames. A class with fewer than `MIN_FRAMES` frames takes its quantiles from all shares of its local
    peak, then from all classes of the level.

    Parameters
    ----------
    residuals : Residuals
        Frames of all levels together.
    coverage : float
        Share of the truth inside.
    levels_db : sequence of float
        SNRs in dB, increasing; the rows of the table stand near them.
    peak_edges, share_edges : sequence of float, optional
        Borders of the classes.

    Returns
    -------
    Intervals
        Intervals with empty method, settings and source.

    Raises
    ------
    InputError
        If a level has too few frames for the coverage.
    """
    levels, peaks, shares = (np.array(values, np.float64) for values in (levels_db, peak_edges, share_edges))
    cells = np.stack([pixel_cells(image[np.newaxis], peaks, shares)[0] for image in residuals.images])
    errors = residuals.truth.astype(np.float64) - residuals.images
    nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, residuals.snr_db, side="right")
    counts = np.bincount(nearest, minlength=levels.size)
    if counts.min() < fewest_frames(coverage):
        raise InputError(
            f"{counts.min()} frames are nearest to {levels[counts.argmin()]:g} dB; expected at least "
            f"{fewest_frames(coverage)}; emulate more frames or leave the level out"
        )
    shape = (peaks.size + 1, shares.size + 1)
    frames = [nearest == level for level in range(levels.size)]
    groups = [_classes(cells[chosen], shape, coverage) for chosen in frames]
    widths = np.array(
        [
            [half_widths(errors[chosen][pixels], coverage) for pixels in group]
            for chosen, group in zip(frames, groups, strict=True)
        ]
    )
    below, above = np.moveaxis(widths.reshape(levels.size, *shape, 2), -1, 0)
    intervals = Intervals(
        method="",
        settings={},
        coverage=coverage,
        snr_db=np.bincount(nearest, residuals.snr_db) / counts,
        snr_range=(float(residuals.snr_db.min()), float(residuals.snr_db.max())),
        peak_edges=peaks,
        share_edges=shares,
        below=below,
        above=above,
        source={},
    )
    scores = _scores(intervals, errors, cells, residuals.snr_db)
    scales = np.array(
        [
            [conformal_scale(scores[chosen][pixels], _frames_of(pixels), coverage) for pixels in group]
            for chosen, group in zip(frames, groups, strict=True)
        ]
    ).reshape(below.shape)
    return replace(intervals, below=scales * below, above=scales * above)


def half_widths(errors: NDArray[np.float64], coverage: float) -> tuple[float, float]:
    """Return how far below and above the image an interval has to reach for these errors.

    Parameters
    ----------
    errors : ndarray of float64, shape (n,)
        Errors, truth minus image.
    coverage : float
        Share of the truth inside; each side may miss half of the rest.

    Returns
    -------
    below, above : float
        Half-widths, not negative: the interval holds the image itself. Where one side misses less than its
        half, because a concentration cannot be negative, the other side may miss the more.
    """
    tail = (1 - coverage) / 2
    below, above = _reach(-errors, tail), _reach(errors, tail)
    spare_below = tail - float(np.mean(errors < -below))
    spare_above = tail - float(np.mean(errors > above))
    if spare_below > spare_above:
        return below, _reach(errors, tail + spare_below)
    return _reach(-errors, tail + spare_above), above


def conformal_scale(scores: NDArray[np.float64], n_frames: int, coverage: float) -> float:
    """Return the factor on half-widths with which they hold the coverage, finite-sample correction included.

    Parameters
    ----------
    scores : ndarray of float64, shape (n,)
        Factors by which half-widths reach each truth; infinite where no factor does.
    n_frames : int
        Number of independent frames they come from, at least `fewest_frames`.
    coverage : float
        Share of the truth inside.

    Returns
    -------
    float
        The smallest score that at most 1 - coverage of the weight exceeds, 1 / (K + 1) of it at infinity; 1
        if that score is infinite.
    """
    # The n pixels share the weight K / (K + 1).
    index = math.ceil(coverage * (n_frames + 1) / n_frames * scores.size - TINY) - 1
    scale = float(np.partition(scores, index)[index])
    return scale if math.isfinite(scale) else 1.0


def _reach(errors: NDArray[np.float64], tail: float) -> float:
    """Return the smallest error of float64 (n,), at least 0, that at most a share `tail` of them exceeds."""
    index = math.ceil((1 - tail) * errors.size - TINY) - 1
    return max(0.0, float(np.partition(errors, index)[index]))


def _scores(
    intervals: Intervals,
    errors: NDArray[np.float64],
    cells: NDArray[np.intp],
    snr_db: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return every error, float64 (F, Ny, Nx), over the half-width on its side; `cells` have that shape."""
    scores = np.empty_like(errors)
    for score, error, cell, snr in zip(scores, errors, cells, snr_db, strict=True):
        below, above = (np.take(table, cell) for table in intervals.half_widths(snr))
        width = np.where(error < 0, below, above)
        score[...] = np.divide(np.abs(error), width, out=np.where(error == 0, 0.0, np.inf), where=width > 0)
    return scores


def _classes(cells: NDArray[np.intp], shape: tuple[int, int], coverage: float) -> list[NDArray[np.bool_]]:
    """Return for every class which pixels of one level stand for it: its own if enough frames have some.

    `cells` are intp (F, Ny, Nx), and each mask is bool of that shape.
    """
    n_peaks, n_shares = shape
    enough = max(MIN_FRAMES, fewest_frames(coverage))
    found = []
    for peak, share in itertools.product(range(n_peaks), range(n_shares)):
        candidates = (cells == peak * n_shares + share, cells // n_shares == peak)
        everything = np.ones_like(candidates[0])
        found.append(next((some for some in candidates if _frames_of(some) >= enough), everything))
    return found


def _frames_of(pixels: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(pixels.any(axis=(1, 2))))
