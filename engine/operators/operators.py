"""Operators: everything a solver needs of one system matrix, precomputed; the content of `operators.h5`.

The system matrix is whitened, real-stacked and divided by `Operators.scale`, so that its spectral norm
is `SPECTRAL_NORM`. ADMM weighs data and image with a fixed ratio of one (Eq. 7), so this norm is part
of the method: the networks are trained at it.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from engine.errors import PairingError
from engine.mpi.grid import Grid
from engine.mpi.row_layout import Acquisition, RowLayout

SPECTRAL_NORM = 25.0
"""Spectral norm of the normalised system matrix, the regime of the published weights (theirs: 25.3)."""

START_DAMPING = 1e-4
"""Damping added to the singular values of the least-squares start, as in the released code."""


@dataclass(frozen=True)
class DenseMatrices:
    """Matrices that grow with the product of rows and voxels, and with the square of the voxels.

    Attributes
    ----------
    system_matrix : ndarray of float32, shape (R, N)
        Matrix A: rows [Re; Im], whitened, divided by `Operators.scale`.
    inverse : ndarray of float32, shape (N, N)
        Inverse M = (I + A^T A)^-1 of Eq. (7).
    """

    system_matrix: NDArray[np.float32]
    inverse: NDArray[np.float32]


@dataclass(frozen=True)
class Operators:
    """One system matrix, ready for the solvers. R = 2M real rows, N voxels; arrays are C-contiguous.

    The matrix is given by K singular triplets, A = U diag(s) V^T. Dense operators hold all of them (K = N)
    and the matrices multiplied out. Factored operators hold the triplets alone, in memory linear in
    (R + N) K; A then means U diag(s) V^T of these, and M its (I + A^T A)^-1
    (`engine.operators.products` applies both).

    Attributes
    ----------
    grid : Grid
        Reconstruction grid, N voxels.
    layout : RowLayout
        Dense layout of the M complex rows.
    acquisition : Acquisition
        Settings that a measurement must match.
    noise_std : ndarray of float64, shape (M,)
        Noise standard deviation per real component of each selected row of the calibration's background,
        in the unit of the raw spectra. Rows of a measurement are divided by it (whitening).
    scale : float
        Factor between the whitened system matrix (per unit concentration) and `system_matrix`.
    left_singular : ndarray of float32, shape (K, R)
        Factor U^T of the singular value decomposition A = U diag(s) V^T.
    singular_values : ndarray of float64, shape (K,)
        Singular values s, decreasing.
    right_singular : ndarray of float32, shape (N, K)
        Factor V, one singular vector per column.
    rank : int
        Singular triplets kept in the least-squares start, at most K.
    source_sha256 : str
        SHA-256 of the calibration file (or "" for one made in memory).
    dense : DenseMatrices, optional
        Matrices A and M multiplied out; None for factored operators.
    truncation_error : float
        Share ||A - U diag(s) V^T|| / ||A|| of the calibration's A, in the Frobenius norm; 0 for dense ones.
    largest_dropped : float
        Singular value number K + 1 of the calibration's matrix, in the unit of `singular_values`: a
        unit vector as image can lose data of that norm. 0 for dense operators.
    """

    grid: Grid
    layout: RowLayout
    acquisition: Acquisition
    noise_std: NDArray[np.float64]
    scale: float
    left_singular: NDArray[np.float32]
    singular_values: NDArray[np.float64]
    right_singular: NDArray[np.float32]
    rank: int
    source_sha256: str = ""
    dense: DenseMatrices | None = None
    truncation_error: float = 0.0
    largest_dropped: float = 0.0

    @property
    def n_rows(self) -> int:
        """Number R of real rows."""
        return int(self.left_singular.shape[1])

    @property
    def n_voxels(self) -> int:
        """Number N of voxels."""
        return int(self.right_singular.shape[0])

    @property
    def n_triplets(self) -> int:
        """Number K of singular triplets."""
        return len(self.singular_values)

    @property
    def system_matrix(self) -> NDArray[np.float32]:
        """Matrix A, float32 (R, N); PairingError for factored operators."""
        return self._require_dense().system_matrix

    @property
    def inverse(self) -> NDArray[np.float32]:
        """Inverse M = (I + A^T A)^-1, float32 (N, N); PairingError for factored operators."""
        return self._require_dense().inverse

    @cached_property
    def start_matrix(self) -> NDArray[np.float32]:
        """V_r diag(1 / (s_r + START_DAMPING)), float32 (N, rank): x_LS = start_matrix @ (U^T y)[:rank]."""
        s = self.singular_values[: self.rank]
        return np.ascontiguousarray(self.right_singular[:, : self.rank] / (s + START_DAMPING), np.float32)

    @cached_property
    def weighted_adjoint(self) -> NDArray[np.float32]:
        """M A^T = V diag(s / (1 + s^2)) U^T, float32 (N, R): the data's share of the image in Eq. (7).

        Its norm is at most 1/2. Applied one after the other, A^T rounds at the size of ||A||, and M lets
        those errors pass wherever A hardly sees the image. PairingError for factored operators.
        """
        self._require_dense()
        s = self.singular_values
        weights = self.right_singular.astype(np.float64) * (s / (1.0 + s**2))
        return np.ascontiguousarray(weights @ self.left_singular.astype(np.float64), np.float32)

    def _require_dense(self) -> DenseMatrices:
        if self.dense is None:
            raise PairingError(
                f"the operators hold {self.n_triplets} singular triplets in place of the system matrix, but "
                "this needs the matrix itself; run engine calibrate without --factors"
            )
        return self.dense


ROWS_PER_TRIPLET = 2
"""Rows needed per singular triplet (dense operators: per voxel) to estimate the noise from the part of the
data that no image explains."""


def can_estimate_noise(operators: Operators) -> bool:
    """Whether the operators have the rows to estimate the noise level of a measurement."""
    return operators.n_rows >= ROWS_PER_TRIPLET * operators.n_triplets


def rows_for_unknowns(operators: Operators) -> str:
    """Say how many rows there are for how many unknowns of the noise estimate."""
    unknowns = "voxels" if operators.dense is not None else "singular triplets"
    return f"{operators.n_rows} rows for {operators.n_triplets} {unknowns}"
