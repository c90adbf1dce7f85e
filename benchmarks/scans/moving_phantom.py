"""A phantom that moves from frame to frame, measured with new noise each time."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import shift

from benchmarks.scans.scans import frames_of_test_split, reference_scan

VOXELS_PER_FRAME = 0.25
"""Of 2 mm, 46.4 times a second: 23 mm/s."""

PHANTOMS = (1, 5, 9, 14)
"""Of the test split."""


@dataclass(frozen=True)
class Sequence:
    """Consecutive frames.

    Attributes
    ----------
    truth : ndarray of float32, shape (F, Ny, Nx)
        Concentrations.
    rows : ndarray of float64, shape (F, R)
        Noisy data in the normalised unit of the operators.
    """

    truth: NDArray[np.float32]
    rows: NDArray[np.float64]


def moving_phantom(gradient: float, phantom: int, count: int, snr: float) -> Sequence:
    """Measure a phantom of the test split that moves along x, at a gradient in T/m and an SNR in dB."""
    scan = reference_scan(gradient)
    image = frames_of_test_split(gradient, max(PHANTOMS) + 1, snr).truth[phantom]
    steps = VOXELS_PER_FRAME * (np.arange(count) - (count - 1) / 2)
    truth = np.stack([np.maximum(shift(image, (0.0, step), order=3), 0.0) for step in steps])
    matrix = scan.measured.real_rows()
    clean = truth.reshape(count, -1).astype(np.float64) @ matrix.T / scan.operators.scale
    level = np.linalg.norm(clean, axis=1, keepdims=True) / np.sqrt(clean.shape[1]) * 10 ** (-snr / 20)
    noise = np.random.default_rng([phantom, 41]).standard_normal(clean.shape)
    return Sequence(truth.astype(np.float32), clean + level * noise)
