"""A small calibrated system on which the engine's tests agree."""

import numpy as np
import pytest

from engine.mpi.grid import Grid
from engine.mpi.system_matrix import SystemMatrix
from engine.operators import Acquisition, RowLayout


def random_system_matrix(grid, n_rows, shape, seed):
    """Smooth random rows at random places of a dense layout of the given shape."""
    rng = np.random.default_rng(seed)
    index = np.sort(rng.choice(shape[0] * shape[1], n_rows, replace=False)).astype(np.int64)
    waves = rng.uniform(-3, 3, (n_rows, 3)) / np.array(grid.field_of_view)
    rows = 40 * np.exp(1j * (waves @ grid.positions().T) + 1j * rng.uniform(0, 6, (n_rows, 1)))
    rows += 0.1 * (rng.standard_normal(rows.shape) + 1j * rng.standard_normal(rows.shape))
    acquisition = Acquisition(
        bandwidth=500e3,
        n_samples=1000,
        n_periods=shape[0],
        n_channels=1,
        channels=np.array([0], np.int64),
        bins=np.arange(50, 50 + shape[1], dtype=np.int64),
    )
    return SystemMatrix(
        rows.astype(np.complex128),
        grid,
        RowLayout(shape, index),
        acquisition,
        rng.uniform(1e-6, 2e-6, n_rows),
    )


@pytest.fixture(scope="session")
def make_system_matrix():
    """Build a random system matrix: make_system_matrix(grid, n_rows, dense_shape, seed)."""
    return random_system_matrix


@pytest.fixture(scope="session")
def small_system_matrix():
    """60 complex rows in a (6, 12) layout on a 7 x 5 grid."""
    return random_system_matrix(Grid((7, 5, 1), (0.014, 0.010, 0.002)), 60, (6, 12), 1)
