"""One application of the fixed-point map h_theta, Eqs. (15)-(17), in single precision."""

import math

import numpy as np
from numpy.typing import NDArray

from engine.errors import PairingError
from engine.operators import Operators
from engine.protocols import Consistency, Float32Array, ImagePrior


class AdmmStep:
    """The map (x, d0, d1) -> h_theta(x, d0, d1; y, A) for one measurement at a time.

    The state is one contiguous float32 vector of N + R + N values in the order of Eq. (14): image x, data
    dual d0, image dual d1. Buffers are allocated once, so an object serves one thread.

    Parameters
    ----------
    operators : Operators
        A, M = (I + A^T A)^-1 and M A^T.
    prior : ImagePrior
        Psi_RDN, Eq. (16).
    consistency : Consistency
        Psi_LC, Eq. (15).

    Raises
    ------
    PairingError
        If the grid has more than one slice: the networks are two-dimensional.
    """

    def __init__(self, operators: Operators, prior: ImagePrior, consistency: Consistency) -> None:
        nx, ny, nz = operators.grid.size
        if nz != 1:
            raise PairingError(
                f"the operators' grid has {nz} slices; the networks take images of one slice; "
                "use a system matrix with Nz = 1 or the least-squares method"
            )
        self._operators = operators
        self._prior = prior
        self._consistency = consistency
        n_rows, n_voxels = operators.n_rows, operators.n_voxels
        # Inputs of the networks. Places that no row selects are never written and stay zero.
        self._image = np.zeros((1, 1, ny, nx), np.float32)
        self._data = np.zeros((1, 2, *operators.layout.shape), np.float32)
        self._measurement = np.zeros_like(self._data)
        self._mask = operators.layout.mask[None, None]
        self._epsilon = np.zeros((1, 1, 1, 1), np.float32)
        self._noise = np.zeros((1, 1, 1, 1), np.float32)
        index = operators.layout.index
        self._places = np.concatenate([index, index + operators.layout.mask.size])  # of the 2M real rows
        self._rows = np.empty(n_rows, np.float32)
        self._consistent = np.empty(n_rows, np.float32)
        self._regularised = np.empty(n_voxels, np.float32)
        self._weighted_adjoint = operators.weighted_adjoint

    @property
    def state_size(self) -> int:
        """Length N + R + N of the state vector."""
        return 2 * self._operators.n_voxels + self._operators.n_rows

    def set_measurement(self, y: NDArray[np.floating], epsilon: float) -> None:
        """Set the measurement for the steps to come.

        Parameters
        ----------
        y : ndarray of float, shape (R,)
            Normalised real-stacked rows [Re; Im].
        epsilon : float
            Bound on ||z0 - y||, in the same units.
        """
        self._scatter(y, self._measurement)
        self._epsilon[...] = epsilon
        self._noise[...] = epsilon / math.sqrt(self._operators.n_rows)

    def start(
        self, image: NDArray[np.floating], data_dual: NDArray[np.floating] | None = None
    ) -> Float32Array:
        """Return the first state (N + R + N,): the image (N,), the data dual (R,) or zeros, and zeros."""
        state = np.zeros(self.state_size, np.float32)
        x, d0, _ = self._split(state)
        x[...] = image
        if data_dual is not None:
            d0[...] = data_dual
        return state

    def __call__(self, z: Float32Array, out: Float32Array) -> None:
        """Write h_theta(z) into `out`; both are contiguous float32 of shape (N + R + N,)."""
        a = self._operators
        x, d0, d1 = self._split(z)
        x_next, d0_next, d1_next = self._split(out)

        np.dot(a.system_matrix, x, out=self._rows)
        self._rows -= d0
        z0 = self._consistent_data(self._rows)  # Eq. (15)
        np.subtract(x, d1, out=self._image.reshape(-1))
        z1 = self._regularised_image()  # Eq. (16)

        # Eq. (17), whose last row prints A x_{k+1} for x_{k+1} (compare Eq. (9)). d0 + z0 and d1 + z1
        # appear in the image and in the duals, so they are formed once, in the place of the new duals.
        np.add(d0, z0, out=d0_next)
        np.add(d1, z1, out=d1_next)
        np.dot(self._weighted_adjoint, d0_next, out=x_next)
        np.dot(a.inverse, d1_next, out=self._regularised)
        x_next += self._regularised
        np.dot(a.system_matrix, x_next, out=self._rows)
        d0_next -= self._rows
        d1_next -= x_next

    def _split(self, state: Float32Array) -> tuple[Float32Array, Float32Array, Float32Array]:
        n_voxels, n_rows = self._operators.n_voxels, self._operators.n_rows
        return state[:n_voxels], state[n_voxels : n_voxels + n_rows], state[n_voxels + n_rows :]

    def _consistent_data(self, v: Float32Array) -> Float32Array:
        self._scatter(v, self._data)
        z0 = self._consistency(self._data, self._measurement, self._mask, self._epsilon)
        _require_shape("consistency block", z0, self._data)
        # mode="clip" writes straight into `out`; the layout's places are valid, so nothing is clipped.
        np.take(np.asarray(z0, np.float32).reshape(-1), self._places, out=self._consistent, mode="clip")
        return self._consistent

    def _regularised_image(self) -> NDArray[np.floating]:
        z1 = self._prior(self._image, self._noise)
        _require_shape("image prior", z1, self._image)
        return z1.reshape(-1)

    def _scatter(self, rows: NDArray[np.floating], dense: Float32Array) -> None:
        dense.reshape(-1)[self._places] = rows


def _require_shape(name: str, found: NDArray[np.floating], expected: Float32Array) -> None:
    if found.shape != expected.shape:
        raise PairingError(
            f"the {name} returned an array of shape {found.shape}; expected its input's shape "
            f"{expected.shape}; use a bundle made for these operators"
        )
