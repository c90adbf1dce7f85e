"""Made-up operators of any size: smooth, orthonormal singular vectors and the reference scanner's spectrum.

Simulating a scanner of 32^3 voxels and 30,000 rows would take hours and change neither time nor memory.
Images are the cosines of a discrete cosine transform, low frequencies first: system functions along a drive
field are Chebyshev polynomials, that is cosines in disguise (Rahmer et al., BMC Med. Imaging 9, 2009).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.mpi.grid import Grid
from engine.mpi.row_layout import Acquisition, RowLayout
from engine.operators.factorisation import DEFAULT_RANK_SHARE
from engine.operators.operators import DenseMatrices, Operators

VOXEL = 0.002
"""Edge of a voxel in metres."""

N_LINES = 60
"""Lines of the dense layout, the angles of the reference scanner."""

FILLED = 0.37
"""Share of the places of the layout that hold a row, as on the reference scanner."""

SEED = 5


@dataclass(frozen=True)
class Size:
    """What decides time and memory.

    Attributes
    ----------
    grid : tuple of int
        (Nx, Ny, Nz).
    n_rows : int
        R, even.
    n_triplets : int or None
        K of factored operators; None for dense ones.
    """

    grid: tuple[int, int, int]
    n_rows: int
    n_triplets: int | None

    @property
    def n_voxels(self) -> int:
        """N."""
        return int(np.prod(self.grid))


def made_up_operators(size: Size, spectrum: NDArray[np.float64]) -> Operators:
    """Make operators of a size.

    Parameters
    ----------
    size : Size
    spectrum : ndarray of float64
        Singular values of a real system matrix, decreasing; stretched to N values.

    Returns
    -------
    Operators
    """
    n_voxels, n_rows = size.n_voxels, size.n_rows
    n_triplets = n_voxels if size.n_triplets is None else size.n_triplets
    every = stretched(spectrum, n_voxels)
    s, dropped = every[:n_triplets], every[n_triplets:]
    left, right = _mixed_cosines(n_triplets, n_rows), _smooth_images(size.grid, n_triplets)
    layout = _layout(n_rows // 2)
    return Operators(
        grid=_grid(size.grid),
        layout=layout,
        acquisition=Acquisition(
            500e3, 10_000, N_LINES, 1, np.array([0]), np.arange(layout.shape[1], dtype=np.int64)
        ),
        noise_std=np.ones(n_rows // 2),
        scale=1.0,
        left_singular=left,
        singular_values=s,
        right_singular=right,
        rank=min(n_triplets, round(DEFAULT_RANK_SHARE * n_voxels)),
        dense=_multiplied_out(left, s, right) if size.n_triplets is None else None,
        truncation_error=float(np.linalg.norm(dropped) / np.linalg.norm(every)),
        largest_dropped=float(dropped[0]) if len(dropped) else 0.0,
    )


def stretched(spectrum: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Resample singular values to another number of them, linearly on a logarithmic scale."""
    places = np.linspace(0, len(spectrum) - 1, count)
    return np.exp(np.interp(places, np.arange(len(spectrum)), np.log(spectrum)))


def _grid(size: tuple[int, int, int]) -> Grid:
    nx, ny, nz = size
    return Grid(size, (VOXEL * nx, VOXEL * ny, VOXEL * nz))


def _smooth_images(grid: tuple[int, int, int], count: int) -> NDArray[np.float32]:
    """V (N, K): products of cosines along x, y and z, the lowest spatial frequencies first."""
    waves = np.stack(np.meshgrid(*(np.arange(n) for n in grid), indexing="ij"), axis=-1).reshape(-1, 3)
    order = np.argsort(np.sum((waves / np.array(grid)) ** 2, axis=1), kind="stable")[:count]
    along = [_cosines(n, n)[waves[order, axis]].astype(np.float32) for axis, n in enumerate(grid)]
    volume = np.einsum("kx,ky,kz->zyxk", *along, optimize=True)
    return np.ascontiguousarray(volume.reshape(-1, count))


def _mixed_cosines(count: int, n_rows: int) -> NDArray[np.float32]:
    """U^T (K, R): cosines over the rows in a random order and with random signs."""
    rng = np.random.default_rng(SEED)
    places, signs = rng.permutation(n_rows), rng.choice([-1.0, 1.0], n_rows)
    found = np.empty((count, n_rows), np.float32)
    for index in range(count):
        found[index] = signs * _cosine(index, n_rows)[places]
    return found


def _cosines(count: int, length: int) -> NDArray[np.float64]:
    return np.stack([_cosine(index, length) for index in range(count)])


def _cosine(index: int, length: int) -> NDArray[np.float64]:
    """One orthonormal function of the discrete cosine transform (DCT-II)."""
    values: NDArray[np.float64] = np.cos(np.pi * index * (np.arange(length) + 0.5) / length)
    values *= np.sqrt((1 if index == 0 else 2) / length)
    return values


def _multiplied_out(
    left: NDArray[np.float32], s: NDArray[np.float64], right: NDArray[np.float32]
) -> DenseMatrices:
    root = right / np.sqrt(1 + s**2).astype(np.float32)
    weighted = right * s.astype(np.float32)
    matrix = np.asarray((weighted @ left).T, np.float32, order="C")
    return DenseMatrices(matrix, np.asarray(root @ root.T, np.float32))


def _layout(n_complex_rows: int) -> RowLayout:
    bins = int(np.ceil(n_complex_rows / (N_LINES * FILLED)))
    rng = np.random.default_rng(SEED)
    index = np.sort(rng.choice(N_LINES * bins, n_complex_rows, replace=False)).astype(np.int64)
    return RowLayout((N_LINES, bins), index)
