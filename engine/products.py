"""The products of the ADMM iteration with A, M A^T and M, for many frames at once."""

from typing import Protocol

import numpy as np

from engine.operators import Operators
from engine.protocols import Float32Array


class Products(Protocol):
    """The linear part of Eq. (17). All arrays are float32 with a contiguous last axis."""

    def rows_of(self, images: Float32Array, out: Float32Array, first: int, last: int) -> None:
        """Write rows `first` to `last` of A x of every image (F, N) into those of `out` (F, R)."""
        ...

    def images_of_rows(self, rows: Float32Array, out: Float32Array) -> None:
        """Write M A^T r of every frame's rows (F, R) into `out` (F, N)."""
        ...

    def add_images_of_images(self, images: Float32Array, out: Float32Array) -> None:
        """Add M u of every image (F, N) to `out` (F, N)."""
        ...


class DenseProducts:
    """Products with the matrices A, M A^T and M.

    Parameters
    ----------
    operators : Operators
        Of the system matrix.
    """

    def __init__(self, operators: Operators) -> None:
        self._rows_of = operators.system_matrix.T
        self._images_of_rows = operators.weighted_adjoint.T
        self._images_of_images = operators.inverse.T
        self._share = np.empty((1, operators.n_voxels), np.float32)

    def rows_of(self, images: Float32Array, out: Float32Array, first: int, last: int) -> None:
        """See `Products`."""
        np.matmul(images, self._rows_of[:, first:last], out=out[:, first:last])

    def images_of_rows(self, rows: Float32Array, out: Float32Array) -> None:
        """See `Products`."""
        np.matmul(rows, self._images_of_rows, out=out)

    def add_images_of_images(self, images: Float32Array, out: Float32Array) -> None:
        """See `Products`."""
        if len(self._share) < len(images):
            self._share = np.empty(images.shape, np.float32)
        share = self._share[: len(images)]
        np.matmul(images, self._images_of_images, out=share)
        out += share
