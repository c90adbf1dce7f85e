"""The two products of the ADMM iteration with A and M, dense or through the singular triplets.

With A = U diag(s) V^T of K triplets, everything follows from products with U and V:

    A x   = U (s * V^T x)
    M A^T = V diag(s / (1 + s^2)) U^T
    M     = (I + A^T A)^-1 = I - V diag(s^2 / (1 + s^2)) V^T

The last line holds for any K, also where V does not span all images: what A does not see passes unchanged.
Dense products cost R N + N R + N^2 multiplications and as many values of memory, factored ones
3 N K + 2 R K, of (N + R) K values.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.operators import Operators
from engine.protocols import Float32Array


class Products(Protocol):
    """A x and M A^T r + M u, for one frame or for F frames at once.

    Arrays are float32 with the last axis contiguous; `out` shares no memory with the others. An object
    reuses its buffers and serves one thread.
    """

    def rows_of(self, image: Float32Array, out: Float32Array) -> None:
        """Write A x into `out`.

        Parameters
        ----------
        image : ndarray of float32, shape (N,) or (F, N)
            x.
        out : ndarray of float32, shape (R,) or (F, R)
            Becomes A x.
        """
        ...

    def image_of(self, rows: Float32Array, image: Float32Array, out: Float32Array) -> None:
        """Write M A^T r + M u, the image of Eq. (7), into `out`.

        Parameters
        ----------
        rows : ndarray of float32, shape (R,) or (F, R)
            r.
        image : ndarray of float32, shape (N,) or (F, N)
            u.
        out : ndarray of float32, shape (N,) or (F, N)
            Becomes M A^T r + M u.
        """
        ...


class DenseProducts:
    """Products with A, M A^T and M as matrices.

    Parameters
    ----------
    operators : Operators
        Dense ones.

    Raises
    ------
    PairingError
        If the operators are factored.
    """

    def __init__(self, operators: Operators) -> None:
        self._matrix_transposed = operators.system_matrix.T
        self._weighted_transposed = operators.weighted_adjoint.T
        self._inverse_transposed = operators.inverse.T
        self._frames = _FrameBuffer(operators.n_voxels)

    def rows_of(self, image: Float32Array, out: Float32Array) -> None:
        """Write A x into `out`; see `Products`."""
        np.matmul(_as_frames(image), self._matrix_transposed, out=_as_frames(out))

    def image_of(self, rows: Float32Array, image: Float32Array, out: Float32Array) -> None:
        """Write M A^T r + M u into `out`; see `Products`."""
        image, out = _as_frames(image), _as_frames(out)
        share = self._frames.of(len(image))
        np.matmul(_as_frames(rows), self._weighted_transposed, out=out)
        np.matmul(image, self._inverse_transposed, out=share)
        out += share


class FactoredProducts:
    """Products through the K singular triplets; exact for the matrix that these make up.

    Parameters
    ----------
    operators : Operators
        Factored or dense; only the triplets are used.
    """

    def __init__(self, operators: Operators) -> None:
        s = operators.singular_values
        self._s = s.astype(np.float32)
        self._data_share = (s / (1.0 + s**2)).astype(np.float32)
        self._image_loss = (s**2 / (1.0 + s**2)).astype(np.float32)
        self._left_transposed = operators.left_singular
        self._left = operators.left_singular.T
        self._right = operators.right_singular
        self._right_transposed = operators.right_singular.T
        self._data_coordinates = _FrameBuffer(operators.n_triplets)
        self._image_coordinates = _FrameBuffer(operators.n_triplets)

    def rows_of(self, image: Float32Array, out: Float32Array) -> None:
        """Write A x into `out`; see `Products`."""
        image = _as_frames(image)
        seen = self._image_coordinates.of(len(image))
        np.matmul(image, self._right, out=seen)
        seen *= self._s
        np.matmul(seen, self._left_transposed, out=_as_frames(out))

    def image_of(self, rows: Float32Array, image: Float32Array, out: Float32Array) -> None:
        """Write M A^T r + M u into `out`; see `Products`."""
        rows, image, out = _as_frames(rows), _as_frames(image), _as_frames(out)
        explained = self._data_coordinates.of(len(image))
        seen = self._image_coordinates.of(len(image))
        np.matmul(rows, self._left, out=explained)
        np.matmul(image, self._right, out=seen)
        explained *= self._data_share
        seen *= self._image_loss
        explained -= seen
        np.matmul(explained, self._right_transposed, out=out)
        out += image


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


def _as_frames(array: NDArray[np.float32]) -> Float32Array:
    return array[None] if array.ndim == 1 else array
