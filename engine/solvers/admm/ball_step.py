"""One ADMM iteration with the l2 ball (Eqs. 5-10) for many frames at once, on exactly compressed data.

With A = U diag(s) V^T, every data vector that the iteration ever forms lies in the span of U's columns and of
the part of y that no image explains: z0 is a mean of y and of A x - d0, and d0 a sum of such. So K + 1
coordinates hold all of it, whatever the number of rows, and no product with A or A^T is left. Dense operators
have K = N triplets. With fewer, V does not span all images, and what A does not see of z1 + d1 passes M
unchanged.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.arrays import Float32Array
from engine.errors import PairingError
from engine.measurement.normalization import NormalizedMeasurement, noise_bound
from engine.networks.learned_blocks import ImagePrior
from engine.operators.operators import Operators

TINY_NORM = float(np.finfo(np.float32).tiny)
"""Least norm of A x - d0 - y: keeps the projection defined where A x - d0 is y itself."""


class BallStep:
    """The map (x, d0, d1) -> (x, d0, d1) of Eqs. (5)-(9) with the projection of Eq. (10), F frames at once.

    The state of a frame is one row of 2N + K + 1 float32 values: image x (N), data dual d0 (K + 1), image
    dual d1 (N). Data vectors are given by their coordinates: U^T of them (K), then the component along
    y - U U^T y (1). Buffers are kept between calls, so an object serves one thread.

    Parameters
    ----------
    operators : Operators
        Operators, of which the singular value decomposition is used.
    prior : ImagePrior
        Prior Psi_R of Eq. (6), for F images at once, each of shape (Nz, Ny, Nx); for an `ImagePrior` of 2-D
        images the grid has to have one slice (`require_one_slice`).
    """

    def __init__(self, operators: Operators, prior: ImagePrior) -> None:
        self._operators = operators
        self._prior = prior
        self._image_shape = operators.grid.volume_shape
        self._n_voxels = operators.n_voxels
        self._n_triplets = operators.n_triplets
        self._spans_images = operators.n_triplets == operators.n_voxels
        self._right_singular = operators.right_singular
        s = operators.singular_values
        # Weights of Eqs. (7) and (8), each at most 1: nothing large is formed that would have to cancel.
        self._s = s.astype(np.float32)
        self._data_share = (s / (1.0 + s**2)).astype(np.float32)
        self._image_share = (1.0 / (1.0 + s**2)).astype(np.float32)
        # M on V's coordinates, less the identity where V does not span all images: there it is added as such.
        self._image_gain = self._image_share
        if not self._spans_images:
            self._image_gain = (-(s**2) / (1.0 + s**2)).astype(np.float32)
        self._allocate(0)

    @property
    def state_size(self) -> int:
        """Length 2N + K + 1 of the state of one frame."""
        return 2 * self._n_voxels + self._n_triplets + 1

    def begin(self, measurements: Sequence[NormalizedMeasurement], dual_start: float = 0.0) -> Float32Array:
        """Set the measurements and return their first states (x_LS, d0, 0), float32 (F, 2N + K + 1).

        d0 is `NormalizedMeasurement.data_dual(dual_start)`, of which only the last coordinate is not zero.

        Raises
        ------
        PairingError
            If the noise level of a measurement is not known.
        """
        self.set_measurements(
            np.stack([measurement.explained for measurement in measurements]),
            np.array([measurement.remainder for measurement in measurements]),
            np.array([noise_bound(measurement, self._operators) for measurement in measurements]),
        )
        state = self.start(np.stack([measurement.start for measurement in measurements]))
        if dual_start:
            _, d0, _ = self._split(state)
            d0[:, -1] = [np.linalg.norm(measurement.data_dual(dual_start)) for measurement in measurements]
        return state

    def set_measurements(
        self,
        explained: NDArray[np.floating],
        remainder: NDArray[np.floating],
        epsilon: NDArray[np.floating],
    ) -> None:
        """Set the measurements for the steps to come, and with them the number F of frames.

        Parameters
        ----------
        explained : ndarray of float, shape (F, K)
            Coordinates U^T y of each normalised measurement.
        remainder : ndarray of float, shape (F,)
            Norm ||y - U U^T y||, in the same units.
        epsilon : ndarray of float, shape (F,)
            Bound on ||z0 - y||, in the same units.
        """
        if len(explained) != len(self._y):
            self._allocate(len(explained))
        self._y[:, :-1] = explained
        self._y[:, -1] = remainder
        self._epsilon[...] = epsilon
        self._noise[:, 0, 0, 0] = epsilon / math.sqrt(self._operators.n_rows)

    def keep(self, frames: Sequence[int]) -> None:
        """Go on with these frames only: row i of the states to come is row frames[i] of those before."""
        rows = list(frames)
        self.set_measurements(self._y[rows, :-1], self._y[rows, -1], self._epsilon[rows])

    def start(self, images: NDArray[np.floating]) -> Float32Array:
        """Return the first states, float32 (F, 2N + K + 1): the images (F, N) with zero duals."""
        state = np.zeros((len(images), self.state_size), np.float32)
        state[:, : self._n_voxels] = images
        return state

    def __call__(self, z: Float32Array, out: Float32Array) -> None:
        """Write the next states into `out`; both are contiguous float32 of shape (F, 2N + K + 1)."""
        n_triplets = self._n_triplets
        x, d0, d1 = self._split(z)
        x_next, d0_next, d1_next = self._split(out)

        np.subtract(x, d1, out=self._images)
        # d0 + z0 and d1 + z1 appear in the image and in the duals; they are formed once, where the duals go.
        np.add(d1, self._regularised(), out=d1_next)  # Eq. (6)
        self._pair[0] = x
        self._pair[1] = d1_next
        np.matmul(self._rows, self._right_singular, out=self._coordinate_rows)
        x_seen, image_seen = self._coordinates  # V^T x and V^T (z1 + d1)

        np.add(d0, self._y, out=d0_next)
        np.multiply(x_seen, self._s, out=self._offset[:, :n_triplets])
        self._offset[:, n_triplets] = 0.0  # A x has nothing along y - U U^T y
        self._offset -= d0_next
        self._project()
        d0_next += self._offset  # z0 = y + offset, Eq. (5)

        # Eq. (7): V^T x' = (s (z0 + d0) + V^T (z1 + d1)) / (1 + s^2). Eq. (8) subtracts s V^T x' from
        # z0 + d0, of which (z0 + d0 - s V^T (z1 + d1)) / (1 + s^2) is left.
        data_seen = d0_next[:, :n_triplets]
        np.multiply(data_seen, self._data_share, out=x_seen)
        data_seen *= self._image_share
        np.multiply(image_seen, self._data_share, out=self._scratch)
        data_seen -= self._scratch
        image_seen *= self._image_gain
        x_seen += image_seen
        np.matmul(x_seen, self._right_singular.T, out=x_next)
        if not self._spans_images:
            x_next += d1_next
        d1_next -= x_next  # Eq. (9)

    def _allocate(self, n_frames: int) -> None:
        n_voxels, n_triplets = self._n_voxels, self._n_triplets
        self._y = np.zeros((n_frames, n_triplets + 1), np.float32)
        self._epsilon = np.zeros(n_frames, np.float32)
        self._noise = np.zeros((n_frames, 1, 1, 1), np.float32)
        self._offset = np.zeros((n_frames, n_triplets + 1), np.float32)
        self._scratch = np.zeros((n_frames, n_triplets), np.float32)
        self._pair = np.zeros((2, n_frames, n_voxels), np.float32)
        self._coordinates = np.zeros((2, n_frames, n_triplets), np.float32)
        # The same memory as one matrix each, so that one product serves both.
        self._rows = self._pair.reshape(2 * n_frames, n_voxels)
        self._coordinate_rows = self._coordinates.reshape(2 * n_frames, n_triplets)
        self._prior_input = np.zeros((n_frames, *self._image_shape), np.float32)
        self._images = self._prior_input.reshape(n_frames, n_voxels)

    def _split(self, state: Float32Array) -> tuple[Float32Array, Float32Array, Float32Array]:
        image, dual = self._n_voxels, self._n_voxels + self._n_triplets + 1
        return state[:, :image], state[:, image:dual], state[:, dual:]

    def _regularised(self) -> NDArray[np.floating]:
        z1 = self._prior(self._prior_input, self._noise)
        if z1.shape != self._prior_input.shape:
            raise PairingError(
                f"the image prior returned an array of shape {z1.shape}; expected its input's shape "
                f"{self._prior_input.shape}; use a bundle made for these operators"
            )
        return z1.reshape(self._images.shape)

    def _project(self) -> None:
        """Shorten A x - d0 - y to at most epsilon (Eq. 10)."""
        norm = np.sqrt(np.einsum("fi,fi->f", self._offset, self._offset))
        self._offset *= np.minimum(self._epsilon / np.maximum(norm, TINY_NORM), 1.0)[:, None]
