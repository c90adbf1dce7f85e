"""Factorisation of a system matrix in memory to the operators of the solvers: normalisation, SVD, inverse."""

import numpy as np
from numpy.typing import NDArray

from engine.errors import SelectionError
from engine.mpi.system_matrix import SystemMatrix
from engine.operators.operators import SPECTRAL_NORM, DenseMatrices, Operators
from engine.operators.truncated_svd import rounding_level, truncated_svd

DEFAULT_RANK_SHARE = 0.65
"""Share of the singular triplets in the least-squares start; the released code keeps 220 of 338."""


def make_operators(
    system_matrix: SystemMatrix, rank: int | None = None, source_sha256: str = ""
) -> Operators:
    """Precompute everything the solvers need of a system matrix.

    The real-stacked matrix is divided by its spectral norm over `SPECTRAL_NORM`, factorised as
    A = U diag(s) V^T in double precision, and M = (I + A^T A)^-1 of Eq. (7) follows as
    V diag(1 / (1 + s^2)) V^T. Arrays of the loop are stored in single precision.

    Parameters
    ----------
    system_matrix : SystemMatrix
        Whitened rows, R = 2M real ones on N voxels.
    rank : int, optional
        Singular triplets kept in the least-squares start; by default 65 % of those with a singular value
        above rounding. These are all N for a measured matrix, and as many as the coarse grid has voxels
        for an upsampled one.
    source_sha256 : str, optional
        Hash of the calibration file.

    Returns
    -------
    Operators
        With fewer rows than voxels (R < N) the N - R missing singular values, and their rows of
        `left_singular`, are zero.

    Raises
    ------
    SelectionError
        If the matrix is zero or the rank impossible.
    """
    matrix = system_matrix.real_rows()
    left, s, right = _full_right_svd(matrix)
    if s[0] == 0:
        raise _zero_matrix()
    numerical_rank = int(np.count_nonzero(s > rounding_level(matrix, s[0])))
    rank = _rank_of_start(rank, numerical_rank, numerical_rank)
    scale = float(s[0]) / SPECTRAL_NORM
    s = s / scale
    # A product of one matrix with its own transpose is exactly symmetric.
    root = right / np.sqrt(1 + s**2)
    dense = DenseMatrices(
        np.ascontiguousarray(matrix / scale, np.float32), np.ascontiguousarray(root @ root.T, np.float32)
    )
    return Operators(
        grid=system_matrix.grid,
        layout=system_matrix.layout,
        acquisition=system_matrix.acquisition,
        noise_std=system_matrix.noise_std,
        scale=scale,
        left_singular=np.ascontiguousarray(left.T, np.float32),
        singular_values=s,
        right_singular=np.ascontiguousarray(right, np.float32),
        rank=rank,
        source_sha256=source_sha256,
        dense=dense,
    )


def make_factored_operators(
    system_matrix: SystemMatrix, n_triplets: int, rank: int | None = None, source_sha256: str = ""
) -> Operators:
    """Precompute the leading singular triplets of a system matrix, and nothing that grows faster.

    It does what `make_operators` does, but A is replaced by its best approximation of rank K, of which only
    U, s and V are kept.

    Parameters
    ----------
    system_matrix : SystemMatrix
        Whitened rows, R = 2M real ones on N voxels.
    n_triplets : int
        Number K of triplets.
    rank : int, optional
        Singular triplets kept in the least-squares start; by default as in `make_operators`, but at most
        those of the K with a singular value above rounding.
    source_sha256 : str, optional
        Hash of the calibration file.

    Returns
    -------
    Operators
        Factored operators.

    Raises
    ------
    SelectionError
        If the matrix is zero, or K or the rank impossible.
    """
    matrix = system_matrix.real_rows()
    side = min(matrix.shape)
    if not 1 <= n_triplets <= side:
        raise SelectionError(
            f"{n_triplets} factors of a system matrix of {matrix.shape[0]} real rows and {matrix.shape[1]} "
            f"voxels; expected 1 to {side}"
        )
    if not matrix.any():
        raise _zero_matrix()
    found = truncated_svd(matrix, n_triplets)
    scale = float(found.s[0]) / SPECTRAL_NORM
    n_usable = int(np.count_nonzero(found.s > rounding_level(matrix, found.s[0])))
    return Operators(
        grid=system_matrix.grid,
        layout=system_matrix.layout,
        acquisition=system_matrix.acquisition,
        noise_std=system_matrix.noise_std,
        scale=scale,
        left_singular=np.ascontiguousarray(found.left.T, np.float32),
        singular_values=found.s / scale,
        right_singular=np.ascontiguousarray(found.right, np.float32),
        rank=_rank_of_start(rank, n_usable, found.numerical_rank or side),
        source_sha256=source_sha256,
        truncation_error=found.dropped_norm / float(np.linalg.norm(matrix)),
        largest_dropped=found.largest_dropped / scale,
    )


def _rank_of_start(rank: int | None, n_usable: int, numerical_rank: int) -> int:
    """Check the rank that was asked for, or choose it; only `n_usable` triplets are at hand."""
    if rank is None:
        return min(n_usable, max(1, round(DEFAULT_RANK_SHARE * numerical_rank)))
    if not 1 <= rank <= n_usable:
        raise SelectionError(
            f"rank {rank} for a system matrix of numerical rank {n_usable}; expected 1 to {n_usable}"
        )
    return rank


def _zero_matrix() -> SelectionError:
    return SelectionError("the system matrix is zero; expected a signal in at least one voxel")


def _full_right_svd(
    matrix: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """U (R, N), s (N,) and V (N, N), float64; if R < N with zeros (U, s) and a null-space basis (V) added."""
    n_rows, n_voxels = matrix.shape
    left, s, right = np.linalg.svd(matrix, full_matrices=n_rows < n_voxels)
    missing = n_voxels - len(s)
    return np.pad(left, ((0, 0), (0, missing))), np.pad(s, (0, missing)), right.T
