"""Change of resolution as sparse matrices on x-fastest voxel vectors: bicubic up, box averaging down.

Axes with a single voxel are left alone, as in `Grid.refined`. With s the factor and d the number of
axes that have more than one voxel, a grid of N voxels is refined to s^d N.
"""

from functools import reduce

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from engine.errors import ConfigError

CUBIC_A = -0.5
"""Free parameter of the cubic convolution kernel; -0.5 reproduces second-degree polynomials (Keys 1981)."""


def bicubic_upsampling(volume_shape: tuple[int, int, int], factor: int = 2) -> sp.csr_array:
    """Return U, which samples the columns of a system matrix on a finer grid (Sec. IV-D of the paper).

    The system function of a fine voxel is interpolated by cubic convolution between the voxel centres of
    the coarse grid, mirrored at the edges of the field of view (half-sample symmetry).

    Parameters
    ----------
    volume_shape : tuple of int
        (Nz, Ny, Nx) of the coarse grid.
    factor : int, optional
        Refinement s per axis.

    Returns
    -------
    scipy.sparse.csr_array, shape (N, s^d N)
        U, to be used as ``A @ U``. Columns sum to 1, so a constant system function stays what it is; rows
        sum to s^d.

    Raises
    ------
    ConfigError
        If a voxel count or the factor is below 1.
    """
    _require_positive(volume_shape, factor)
    return _kron_over_axes([_cubic_axis(n, factor) for n in volume_shape])


def box_downsampling(volume_shape: tuple[int, int, int], factor: int = 2) -> sp.csr_array:
    """Return D, which averages the columns of a fine system matrix over coarse voxels (Sec. IV-D).

    Parameters
    ----------
    volume_shape : tuple of int
        (Nz, Ny, Nx) of the coarse grid.
    factor : int, optional
        Refinement s per axis of the fine grid.

    Returns
    -------
    scipy.sparse.csr_array, shape (s^d N, N)
        D, with entries s^-d. Columns sum to 1, so ``A @ U @ D`` has the scale of A. ``D.T @ fine_image``
        is the mean of a fine image over each coarse voxel; ``s^d * D @ image`` repeats coarse voxels.

    Raises
    ------
    ConfigError
        If a voxel count or the factor is below 1.
    """
    _require_positive(volume_shape, factor)
    return _kron_over_axes([_box_axis(n, factor) for n in volume_shape])


def _cubic_axis(n: int, factor: int) -> sp.csr_array:
    """Interpolation weights along one axis, shape (n, factor * n)."""
    if n == 1:
        return sp.csr_array(np.ones((1, 1)))
    fine = np.arange(factor * n)
    position = (fine + 0.5) / factor - 0.5  # of fine voxel centres, in coarse voxels
    taps = np.floor(position).astype(np.int64)[:, None] + np.arange(-1, 3)
    weights = _cubic_kernel(position[:, None] - taps)
    columns = np.broadcast_to(fine[:, None], taps.shape)
    # Duplicate places, made by the mirror, are summed on conversion.
    places = (_mirror(taps, n).ravel(), columns.ravel())
    axis = sp.coo_array((weights.ravel(), places), shape=(n, factor * n)).tocsr()
    axis.eliminate_zeros()
    return axis


def _box_axis(n: int, factor: int) -> sp.csr_array:
    """Averaging weights along one axis, shape (factor * n, n)."""
    s = factor if n > 1 else 1
    fine = np.arange(s * n)
    return sp.csr_array((np.full(s * n, 1 / s), (fine, fine // s)), shape=(s * n, n))


def _cubic_kernel(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cubic convolution kernel at signed distances in coarse voxels, float64 in the shape of these."""
    t = np.abs(distance)
    near = ((CUBIC_A + 2) * t - (CUBIC_A + 3)) * t**2 + 1
    far = CUBIC_A * (((t - 5) * t + 8) * t - 4)
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


def _mirror(index: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Fold int64 indices into [0, n) by half-sample symmetry: ... 1 0 | 0 1 ... n-1 | n-1 n-2 ..."""
    folded = index % (2 * n)
    return np.where(folded < n, folded, 2 * n - 1 - folded)


def _kron_over_axes(matrices: list[sp.csr_array]) -> sp.csr_array:
    """Combine matrices along z, y, x; the last one acts on the fastest axis."""
    return sp.csr_array(reduce(lambda a, b: sp.kron(a, b, format="csr"), matrices))


def _require_positive(volume_shape: tuple[int, int, int], factor: int) -> None:
    if len(volume_shape) != 3 or min(volume_shape) < 1 or factor < 1:
        raise ConfigError(
            f"volume shape {volume_shape} with resampling factor {factor}; expected three positive voxel "
            "counts (Nz, Ny, Nx) and a factor of at least 1"
        )
