"""The products of the ADMM iteration with A, M A^T and M: as matrices or through the singular triplets.

With A = U diag(s) V^T of K triplets, everything follows from products with U and V:

    A x   = U (s * V^T x)
    M A^T = V diag(s / (1 + s^2)) U^T
    M     = (I + A^T A)^-1 = I - V diag(s^2 / (1 + s^2)) V^T

The last line holds for any K, also where V does not span all images: what A does not see passes unchanged.
Dense products cost 2 R N + N^2 multiplications and as many values of memory, factored ones 2 R K + 4 N K, of
(N + R) K values.
"""

from typing import Protocol

import numpy as np

from engine.arrays import Float32Array
from engine.operators.operators import Operators


class Products(Protocol):
    """The linear part of Eq. (17) for F frames at once.

    All arrays are float32 with a contiguous last axis; `out` shares no memory with the others. An object
    reuses its buffers and serves one thread, except that `rows_of` may work on different rows in two.
    """

    def rows_of(self, images: Float32Array, out: Float32Array, first: int, last: int) -> None:
        """Write rows `first` to `last` of A x of every image, float32 (F, N), into those of `out` (F, R)."""
        ...

    def images_of_rows(self, rows: Float32Array, out: Float32Array) -> None:
        """Write M A^T r of every frame's rows, float32 (F, R), into `out` (F, N)."""
        ...

    def add_images_of_images(self, images: Float32Array, out: Float32Array) -> None:
        """Add M u of every image, float32 (F, N), to `out` (F, N)."""
        ...


class DenseProducts:
    """Products with A, M A^T and M as matrices.

    Parameters
    ----------
    operators : Operators
        Dense operators.

    Raises
    ------
    PairingError
        If the operators are factored.
    """

    def __init__(self, operators: Operators) -> None:
        self._rows_of = operators.system_matrix.T
        self._images_of_rows = operators.weighted_adjoint.T
        self._images_of_images = operators.inverse.T
        self._share = _FrameBuffer(operators.n_voxels)

    def rows_of(self, images: Float32Array, out: Float32Array, first: int, last: int) -> None:
        """Write rows of A x of images, float32 (F, N), into `out` (F, R); see `Products.rows_of`."""
        np.matmul(images, self._rows_of[:, first:last], out=out[:, first:last])

    def images_of_rows(self, rows: Float32Array, out: Float32Array) -> None:
        """Write M A^T r of rows, float32 (F, R), into `out` (F, N); see `Products.images_of_rows`."""
        np.matmul(rows, self._images_of_rows, out=out)

    def add_images_of_images(self, images: Float32Array, out: Float32Array) -> None:
        """Add M u of images, float32 (F, N), to `out` (F, N); see `Products.add_images_of_images`."""
        share = self._share.of(len(images))
        np.matmul(images, self._images_of_images, out=share)
        out += share


class FactoredProducts:
    """Products through the K singular triplets; exact for the matrix that these make up.

    Parameters
    ----------
    operators : Operators
        Operators, factored or dense; only the triplets are used.
    """

    def __init__(self, operators: Operators) -> None:
        s = operators.singular_values
        self._s = s.astype(np.float32)
        self._data_share = (s / (1.0 + s**2)).astype(np.float32)
        self._image_loss = (s**2 / (1.0 + s**2)).astype(np.float32)
        self._left = operators.left_singular  # U^T
        self._right = operators.right_singular
        self._explained = _FrameBuffer(operators.n_triplets)
        self._lost = _FrameBuffer(operators.n_triplets)
        self._loss = _FrameBuffer(operators.n_voxels)
        self._seen: dict[int, _FrameBuffer] = {}  # one for each part of the rows: two threads may be at work

    def rows_of(self, images: Float32Array, out: Float32Array, first: int, last: int) -> None:
        """Write rows of A x of images, float32 (F, N), into `out` (F, R); see `Products.rows_of`."""
        if first == last:
            return
        if first not in self._seen:
            self._seen[first] = _FrameBuffer(len(self._s))
        seen = self._seen[first].of(len(images))
        np.matmul(images, self._right, out=seen)
        seen *= self._s
        np.matmul(seen, self._left[:, first:last], out=out[:, first:last])

    def images_of_rows(self, rows: Float32Array, out: Float32Array) -> None:
        """Write M A^T r of rows, float32 (F, R), into `out` (F, N); see `Products.images_of_rows`."""
        explained = self._explained.of(len(rows))
        np.matmul(rows, self._left.T, out=explained)
        explained *= self._data_share
        np.matmul(explained, self._right.T, out=out)

    def add_images_of_images(self, images: Float32Array, out: Float32Array) -> None:
        """Add M u of images, float32 (F, N), to `out` (F, N); see `Products.add_images_of_images`."""
        lost, loss = self._lost.of(len(images)), self._loss.of(len(images))
        np.matmul(images, self._right, out=lost)
        lost *= self._image_loss
        np.matmul(lost, self._right.T, out=loss)
        out += images
        out -= loss


def products_of(operators: Operators) -> Products:
    """Return the products that the operators were made for: dense if they hold A and M, else factored."""
    return FactoredProducts(operators) if operators.dense is None else DenseProducts(operators)


class _FrameBuffer:
    """A work array of so many values per frame; it grows when more frames come than ever before."""

    def __init__(self, length: int) -> None:
        self._values = np.empty((1, length), np.float32)

    def of(self, n_frames: int) -> Float32Array:
        if n_frames > len(self._values):
            self._values = np.empty((n_frames, self._values.shape[1]), np.float32)
        return self._values[:n_frames]
