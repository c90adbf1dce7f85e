"""A small imaging problem on which exported graphs are compared with their networks."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.calibration.calibrate import make_operators
from engine.mpi.grid import Grid
from engine.mpi.row_layout import Acquisition, RowLayout
from engine.mpi.system_matrix import SystemMatrix
from engine.operators.operators import Operators

SNRS_DB = (15.0, 25.0, 35.0)
"""Measurement SNRs (Eq. 36) of the frames: the noise levels of the paper's main table."""

REFERENCE_GRID = Grid((26, 13, 1), (0.052, 0.026, 0.002))
LAYOUT_SHAPE = (30, 20)
SELECTED_SHARE = 0.75
BLUR_VOXELS = 1.0
"""Width of the synthetic point spread: gives singular values that fall over two decades, as in MPI."""

TUBE_WIDTH = 0.08
"""Standard deviation of the phantom's tubes, as a share of the field of view."""


@dataclass(frozen=True)
class ParityProblem:
    """Operators with frames to reconstruct.

    Attributes
    ----------
    operators : Operators
        R real rows, N voxels.
    frames : ndarray of float64, shape (F, R)
        Whitened measurements.
    sigmas : ndarray of float64, shape (F,)
        Noise standard deviation of each frame.
    """

    operators: Operators
    frames: NDArray[np.float64]
    sigmas: NDArray[np.float64]


def parity_problem(operators: Operators) -> ParityProblem:
    """Measure a simple image with the given operators, once per SNR of `SNRS_DB`."""
    clean = operators.scale * (operators.system_matrix.astype(np.float64) @ _image(operators.grid))
    rng = np.random.default_rng(2)
    rms = np.linalg.norm(clean) / np.sqrt(operators.n_rows)
    sigmas = rms * 10.0 ** (-np.array(SNRS_DB) / 20.0)
    frames = clean + sigmas[:, None] * rng.standard_normal((len(sigmas), operators.n_rows))
    return ParityProblem(operators, frames, sigmas)


def synthetic_operators() -> Operators:
    """Blurred random projections on the reference grid, with unselected places in the dense layout."""
    rng = np.random.default_rng(3)
    nx, ny, _ = REFERENCE_GRID.size
    places = LAYOUT_SHAPE[0] * LAYOUT_SHAPE[1]
    index = np.sort(rng.choice(places, round(SELECTED_SHARE * places), replace=False))
    shape = (len(index), REFERENCE_GRID.n_voxels)
    projections = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    rows = projections @ np.kron(_blur(ny), _blur(nx))
    acquisition = Acquisition(
        bandwidth=5e5,
        n_samples=10_000,
        n_periods=LAYOUT_SHAPE[0],
        n_channels=1,
        channels=np.array([0]),
        bins=np.arange(LAYOUT_SHAPE[1]),
    )
    layout = RowLayout(LAYOUT_SHAPE, index)
    return make_operators(SystemMatrix(rows, REFERENCE_GRID, layout, acquisition, np.ones(len(index))))


def _blur(n: int) -> NDArray[np.float64]:
    offsets = np.subtract.outer(np.arange(n), np.arange(n))
    blur: NDArray[np.float64] = np.exp(-0.5 * (offsets / BLUR_VOXELS) ** 2)
    return blur


def _image(grid: Grid) -> NDArray[np.float64]:
    """Two crossing tubes of peak about 1 in a field of view of any size and aspect."""
    x, y, _ = (grid.positions() - grid.center).T / np.array(grid.field_of_view)[:, None]
    first, second = 0.5 * x + 0.1, -0.3 * x - 0.2
    distance = np.minimum(np.abs(y - first), np.abs(y - second))
    image: NDArray[np.float64] = np.exp(-0.5 * (distance / TUBE_WIDTH) ** 2)
    return image
