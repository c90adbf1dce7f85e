"""Emulated measurements as in Sec. IV-D of the paper: data from A_meas, reconstruction with A_meas U D."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from engine.calibration.calibrate import CalibrationConfig, make_operators, system_matrix_from_mdf
from engine.errors import InputError
from engine.mpi.grid import Grid
from engine.mpi.metrics import snr_db
from engine.mpi.simulation.phantoms import IMAGES_PER_TREE, Split, vessel_images
from engine.mpi.simulation.scan import preset_scanner, simulate_calibration
from engine.mpi.system_matrix import SystemMatrix
from engine.operators.operators import Operators

INTENSITY = (0.5, 1.5)
"""Range of the peaks of the phantoms (Sec. IV-B)."""

STREAMS = {"test": (36,), "validation": (36, 1), "train": (36, 2)}
"""Random streams of the splits, so that what is tuned on one never meets the noise of another."""


@dataclass(frozen=True)
class Scan:
    """A measured system matrix and the operators that reconstruct its data.

    Attributes
    ----------
    measured : SystemMatrix
        Measured matrix A_meas, which makes the data.
    operators : Operators
        Operators of A_meas U D, which reconstruct them.
    """

    measured: SystemMatrix
    operators: Operators


@dataclass(frozen=True)
class Frames:
    """Emulated measurements with their truth.

    Attributes
    ----------
    truth : ndarray of float32, shape (F, Ny, Nx)
        Phantoms with peaks between 0.5 and 1.5.
    rows : ndarray of float64, shape (F, R)
        Noisy data in the normalised unit of `Operators.system_matrix`; times `Operators.scale` they are what
        a `Reconstructor` takes.
    noise_std : float
        Noise standard deviation of each real row, the same for all frames as in a scanner.
    snr_db : ndarray of float64, shape (F,)
        SNR of each frame in dB (Eq. 36).
    """

    truth: NDArray[np.float32]
    rows: NDArray[np.float64]
    noise_std: float
    snr_db: NDArray[np.float64]


def scan_of(system_matrix: SystemMatrix) -> Scan:
    """Prepare both sides of a measured system matrix."""
    return Scan(system_matrix, make_operators(system_matrix.smoothed()))


def emulate_scan(preset: str, seed: int = 0) -> Scan:
    """Simulate the calibration of a preset and prepare both sides of it."""
    calibration = simulate_calibration(preset_scanner(preset), seed)
    return scan_of(system_matrix_from_mdf(calibration, CalibrationConfig()))


def emulate_frames(scan: Scan, count: int, snr: float, seed: int = 0, split: Split = "test") -> Frames:
    """Measure phantoms with one noise level, whose mean SNR over the frames is `snr` dB.

    Parameters
    ----------
    scan : Scan
        Scan on a grid with Nz = 1.
    count : int
        Number of frames, at least one. Each shows a vessel tree of its own, so that the mean over n frames is
        one over n trees.
    snr : float
        Mean SNR in dB (Eq. 36).
    seed : int, optional
        Seed of phantoms, peaks and noise; the same for all SNRs.
    split : {"test", "validation", "train"}, optional
        Family of phantoms.

    Returns
    -------
    Frames

    Raises
    ------
    InputError
        If there is no frame to make, the SNR is not finite, or the grid has several slices.
    """
    if count < 1:
        raise InputError(f"number of frames is {count}; expected at least 1")
    if not np.isfinite(snr):
        raise InputError(f"measurement SNR is {snr} dB; expected a finite number")
    rng = np.random.default_rng([seed, *STREAMS[split]])
    images = _phantoms(split, count, scan.operators.grid, seed)
    truth = images * rng.uniform(*INTENSITY, (count, 1, 1)).astype(np.float32)
    clean = truth.reshape(count, -1).astype(np.float64) @ scan.measured.real_rows().T / scan.operators.scale
    levels = 20 * np.log10(np.linalg.norm(clean, axis=1) / np.sqrt(clean.shape[1]))
    noise_std = float(10 ** ((levels.mean() - snr) / 20))
    rows = clean + noise_std * rng.standard_normal(clean.shape)
    return Frames(truth, rows, noise_std, snr_db(clean, rows))


@lru_cache(maxsize=4)
def _phantoms(split: Split, count: int, grid: Grid, seed: int) -> NDArray[np.float32]:
    """Return one image of each tree, float32 (count, Ny, Nx); kept, as making takes longer than measuring."""
    per_tree = IMAGES_PER_TREE[split]
    images = vessel_images(split, count * per_tree, grid, seed)[::per_tree].copy()
    images.flags.writeable = False
    return images
