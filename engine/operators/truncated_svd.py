"""The leading singular triplets of a matrix: exact where that is quick, else by a randomised range finder."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, svds

Float64Array = NDArray[np.float64]

EXACT_SIDE = 2500
"""Matrices with at most so many rows or columns are decomposed exactly: about 20 s on one core."""

EXACT_SHARE = 0.5
"""Share of the triplets above which the exact decomposition is made: the range finder would take as long."""

OVERSAMPLING = 0.1
"""Share of additional directions in the range finder; never fewer than `LEAST_OVERSAMPLING`."""

LEAST_OVERSAMPLING = 10

POWER_ITERATIONS = 4
"""Applications of A A^T to the random start. With the slow decay of a system matrix the error of the
truncated matrix is then within 1 % of the smallest possible."""

SEED = 0
"""Seed of the random start: equal matrices give equal factors."""


class TruncatedSvd(NamedTuple):
    """Truncated decomposition A ~ U diag(s) V^T with K triplets, and what is missing.

    Attributes
    ----------
    left : ndarray of float64, shape (R, K)
        Factor U, with orthonormal columns.
    s : ndarray of float64, shape (K,)
        Singular values, decreasing.
    right : ndarray of float64, shape (N, K)
        Factor V, with orthonormal columns.
    dropped_norm : float
        Norm ||A - U diag(s) V^T||, in the Frobenius norm.
    largest_dropped : float
        The same in the spectral norm; number K + 1 of the singular values if the triplets are exact. Both are
        0 if nothing but rounding is dropped.
    numerical_rank : int or None
        Number of singular values of A above rounding; None if all are that were looked at.
    """

    left: Float64Array
    s: Float64Array
    right: Float64Array
    dropped_norm: float
    largest_dropped: float
    numerical_rank: int | None


def truncated_svd(matrix: Float64Array, n_triplets: int) -> TruncatedSvd:
    """Return the leading singular triplets of a matrix.

    Parameters
    ----------
    matrix : ndarray of float64, shape (R, N)
        Finite matrix A.
    n_triplets : int
        Number K of triplets, from 1 to the smaller side of the matrix.

    Returns
    -------
    TruncatedSvd
        The triplets of the exact decomposition if the matrix is small or most of them are wanted, else those
        of `randomised_svd`.
    """
    side = min(matrix.shape)
    if side <= EXACT_SIDE or n_triplets > EXACT_SHARE * side:
        return _exact_svd(matrix, n_triplets)
    return randomised_svd(matrix, n_triplets)


def rounding_level(matrix: Float64Array, largest: float) -> float:
    """Return the size below which a singular value of a matrix, float64 (R, N), is rounding.

    `largest` is the largest of its singular values.
    """
    return float(largest * max(matrix.shape) * np.finfo(np.float64).eps)


def randomised_svd(matrix: Float64Array, n_triplets: int) -> TruncatedSvd:
    """Find the leading triplets in the range of (A A^T)^q A G, with a random matrix G.

    Halko, Martinsson and Tropp, SIAM Rev. 53, 2011, Algs. 4.4 and 5.1: products of matrices only, which
    a processor does at full speed, and orthonormal factors whatever the spectrum. The dropped part is
    measured, not taken from theory.

    Parameters
    ----------
    matrix : ndarray of float64, shape (R, N)
        Finite matrix A.
    n_triplets : int
        Number K of triplets, from 1 to the smaller side of the matrix.

    Returns
    -------
    TruncatedSvd
        The matrix U diag(s) V^T is a near-best approximation; the last triplets need not be singular vectors
        of A one by one.
    """
    n_rows, n_columns = matrix.shape
    extra = max(LEAST_OVERSAMPLING, round(OVERSAMPLING * n_triplets))
    width = min(n_triplets + extra, n_rows, n_columns)
    start = np.random.default_rng(SEED).standard_normal((n_columns, width))
    basis, _ = np.linalg.qr(matrix @ start)
    for _ in range(POWER_ITERATIONS):
        basis, _ = np.linalg.qr(matrix.T @ basis)
        basis, _ = np.linalg.qr(matrix @ basis)
    inner, s, right = np.linalg.svd(basis.T @ matrix, full_matrices=False)
    n_above = int(np.count_nonzero(s > rounding_level(matrix, s[0])))
    left, s, right = basis @ inner[:, :n_triplets], s[:n_triplets], right[:n_triplets].T
    largest, squared = 0.0, 0.0
    if n_above > n_triplets:  # else the rest is rounding
        largest = _spectral_norm_of_rest(matrix, left, s, right)
        squared = np.linalg.norm(matrix) ** 2 - np.sum(s**2)  # U diag(s) V^T is a projection of A
    return TruncatedSvd(
        left,
        s,
        right,
        float(np.sqrt(max(squared, largest**2))),
        largest,
        n_above if n_above < width else None,
    )


def _exact_svd(matrix: Float64Array, n_triplets: int) -> TruncatedSvd:
    left, s, right = np.linalg.svd(matrix, full_matrices=False)
    return TruncatedSvd(
        left[:, :n_triplets],
        s[:n_triplets],
        right[:n_triplets].T,
        float(np.linalg.norm(s[n_triplets:])),
        float(s[n_triplets]) if n_triplets < len(s) else 0.0,
        int(np.count_nonzero(s > rounding_level(matrix, s[0]))),
    )


def _spectral_norm_of_rest(
    matrix: Float64Array, left: Float64Array, s: Float64Array, right: Float64Array
) -> float:
    """Return ||A - U diag(s) V^T||, without forming the difference; shapes are those of `TruncatedSvd`."""
    rest = LinearOperator(
        matrix.shape,
        matvec=lambda x: matrix @ x.reshape(-1) - left @ (s * (right.T @ x.reshape(-1))),
        rmatvec=lambda y: matrix.T @ y.reshape(-1) - right @ (s * (left.T @ y.reshape(-1))),
        dtype=np.float64,
    )
    start = np.random.default_rng(SEED).standard_normal(min(matrix.shape))
    return float(svds(rest, k=1, v0=start, tol=1e-3, return_singular_vectors=False)[0])
