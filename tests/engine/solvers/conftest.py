"""Small reconstruction problems whose answer is known, for the tests of the solvers."""

from dataclasses import dataclass

import numpy as np
import pytest

from engine.measurement.normalization import NormalizedMeasurement, normalize
from engine.mpi.grid import Grid
from engine.operators.factorisation import make_operators
from engine.operators.operators import Operators


@dataclass(frozen=True)
class Problem:
    """Frames of smooth blobs, seen through one made-up system matrix.

    Attributes
    ----------
    operators : Operators
        R = 2 n_rows real rows, N voxels.
    matrix : ndarray of float64, shape (R, N)
        The normalised system matrix, exactly the numbers of `operators.system_matrix`.
    truths : ndarray of float64, shape (F, N)
        The frames in normalised units, in which matrix @ truth + noise = y.
    measurements : tuple of NormalizedMeasurement
        One per frame.
    """

    operators: Operators
    matrix: np.ndarray
    truths: np.ndarray
    measurements: tuple[NormalizedMeasurement, ...]

    @property
    def data(self):
        """The measurements' y as float64, shape (F, R)."""
        return np.stack([measurement.y for measurement in self.measurements]).astype(np.float64)


def blobs(grid, n_frames, rng):
    """Non-negative images (F, N): three Gaussian blobs each, zero outside, of different brightness."""
    fov = np.array(grid.field_of_view)
    centres = rng.uniform(-0.35, 0.35, (n_frames, 3, 1, 3)) * fov
    distance = np.linalg.norm((grid.positions() - centres) / (0.18 * fov.max()), axis=-1)
    images = np.exp(-(distance**2)).sum(axis=1)
    brightness = rng.uniform(0.5, 20, (n_frames, 1))
    return brightness * np.where(images > 0.05, images, 0)


@pytest.fixture(scope="session")
def make_problem(make_system_matrix):
    """Build a problem: make_problem(seed, n_frames=3, shape=(7, 5), n_rows=60, snr_db=30).

    `snr_db` is ||A x||^2 / ||noise||^2 in decibels, one number or one per frame; None leaves the noise out.
    """

    def make(seed, n_frames=3, shape=(7, 5), n_rows=60, snr_db=30):
        rng = np.random.default_rng(seed)
        grid = Grid((*shape, 1), (0.002 * shape[0], 0.002 * shape[1], 0.002))
        operators = make_operators(make_system_matrix(grid, n_rows, (6, -(-n_rows // 4)), seed))
        matrix = operators.system_matrix.astype(np.float64)
        concentrations = blobs(grid, n_frames, rng)
        rows = concentrations @ matrix.T * operators.scale
        if snr_db is not None:
            noise = rng.standard_normal(rows.shape)
            noise *= np.linalg.norm(rows, axis=1, keepdims=True) / np.linalg.norm(
                noise, axis=1, keepdims=True
            )
            rows += noise * 10 ** (-np.broadcast_to(snr_db, n_frames)[:, None] / 20)
        measurements = tuple(normalize(frame, operators) for frame in rows)
        intensity = np.array([measurement.intensity for measurement in measurements])
        return Problem(operators, matrix, concentrations / intensity[:, None], measurements)

    return make


@pytest.fixture(scope="session")
def problem(make_problem):
    """Three frames on 7 x 5 voxels and 120 real rows, at 20, 30 and 40 dB."""
    return make_problem(3, snr_db=(20, 30, 40))
