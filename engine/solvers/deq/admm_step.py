"""One application of the fixed-point map h_theta, Eqs. (15)-(17), in single precision, to many frames."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.arrays import Float32Array
from engine.errors import PairingError
from engine.machine.compiled import kernel
from engine.machine.two_cores import Lanes, OneLane
from engine.measurement.normalization import NormalizedMeasurement, noise_bound
from engine.networks.learned_blocks import Consistency, ImagePrior, bind
from engine.operators.operators import Operators
from engine.operators.products import Products, products_of
from engine.solvers.frame_solver import require_one_slice

IMAGES_AT_A_TIME = 8
"""Frames that Psi_RDN gets at once: with 32 a frame takes a tenth longer, its features leave the cache."""

DATA_AT_A_TIME = 2
"""Most frames that Psi_LC gets at once: its layout is twenty times as large."""


class AdmmStep:
    """The map (x, d0, d1) -> h_theta(x, d0, d1; y, A) for F frames at once.

    The state of a frame is one row of 2N + 2R float32 values: image x (N), data dual d0 (R) and image dual d1
    (N) in the order of Eq. (14), then A x (R). A x is linear in x, so an accelerated point gets it by mixing
    like the rest, and an evaluation needs one product with A instead of two. Residuals look at the first
    2N + R values only (`measured`).

    Eq. (15) with M A^T, and Eq. (16), do not need each other: with two lanes they run side by side.

    Buffers are kept between calls, so an object serves one thread.

    Parameters
    ----------
    operators : Operators
        Operators with A, M = (I + A^T A)^-1 and M A^T.
    prior : ImagePrior
        Network Psi_RDN, Eq. (16).
    consistency : Consistency
        Network Psi_LC, Eq. (15).
    lanes : Lanes, optional
        Cores to use; one by default.
    products : Products, optional
        Products with A, M A^T and M; by default those that the operators were made for.

    Raises
    ------
    PairingError
        If the grid has more than one slice: the networks are two-dimensional.
    """

    def __init__(
        self,
        operators: Operators,
        prior: ImagePrior,
        consistency: Consistency,
        lanes: Lanes | None = None,
        products: Products | None = None,
    ) -> None:
        require_one_slice(operators)
        nx, ny, _ = operators.grid.size
        self._operators = operators
        self._prior = prior
        self._consistency = consistency
        self._lanes = lanes or OneLane()
        self._products = products or products_of(operators)
        self._image_shape = (1, ny, nx)
        self._mask = operators.layout.mask[None, None]
        index = operators.layout.index
        self._places = np.concatenate([index, index + operators.layout.mask.size])  # of the 2M real rows
        self._inputs = _NetworkInputs(1, self._image_shape, operators.layout.shape)
        self._n_frames = 0
        self._use(1)

    @property
    def n_voxels(self) -> int:
        """Length N of an image."""
        return self._operators.n_voxels

    @property
    def state_size(self) -> int:
        """Length 2N + 2R of the state of one frame."""
        return 2 * (self._operators.n_voxels + self._operators.n_rows)

    @property
    def measured(self) -> int:
        """Length 2N + R of the part of a state that residuals look at: all but A x."""
        return self.state_size - self._operators.n_rows

    def begin(self, measurements: Sequence[NormalizedMeasurement], dual_start: float = 0.0) -> Float32Array:
        """Set the measurements and return their first states, float32 (F, 2N + 2R).

        A state starts at (x_LS, d0, 0) with d0 of `NormalizedMeasurement.data_dual(dual_start)`.

        Raises
        ------
        PairingError
            If the noise level of a measurement is not known.
        """
        self.set_measurements(
            np.stack([measurement.y for measurement in measurements]),
            np.array([noise_bound(measurement, self._operators) for measurement in measurements]),
        )
        duals = [measurement.data_dual(dual_start) for measurement in measurements] if dual_start else None
        return self.states(
            np.stack([measurement.start for measurement in measurements]),
            None if duals is None else np.stack(duals),
        )

    def set_measurements(self, y: NDArray[np.floating], epsilon: NDArray[np.floating]) -> None:
        """Set the measurements for the steps to come, and with them the number F of frames.

        Parameters
        ----------
        y : ndarray of float, shape (F, R)
            Normalised real-stacked rows [Re; Im].
        epsilon : ndarray of float, shape (F,)
            Bound on ||z0 - y||, in the same units.
        """
        self._use(len(y))
        self._measurement.reshape(len(y), -1)[:, self._places] = y
        self._epsilon[:, 0, 0, 0] = epsilon
        self._noise[:, 0, 0, 0] = epsilon / math.sqrt(self._operators.n_rows)

    def keep(self, frames: Sequence[int]) -> None:
        """Go on with these frames only: row i of the states to come is row frames[i] of those before."""
        for array in (self._measurement, self._epsilon, self._noise):
            array[: len(frames)] = array[list(frames)]
        self._use(len(frames))

    def states(
        self,
        images: NDArray[np.floating],
        data_duals: NDArray[np.floating] | None = None,
        image_duals: NDArray[np.floating] | None = None,
    ) -> Float32Array:
        """Return states, float32 (F, 2N + 2R), of images (F, N), data duals (F, R) and image duals (F, N).

        Duals that are not given are zero.
        """
        states = np.zeros((len(images), self.state_size), np.float32)
        x, d0, d1, seen = self._split(states)
        x[...] = images
        if data_duals is not None:
            d0[...] = data_duals
        if image_duals is not None:
            d1[...] = image_duals
        self._products.rows_of(x, seen, 0, self._operators.n_rows)
        return states

    def parts(self, state: Float32Array) -> tuple[Float32Array, Float32Array, Float32Array]:
        """Return image (N,), data dual (R,) and image dual (N,) of one state, as views of float32."""
        x, d0, d1, _ = self._split(state[None])
        return x[0], d0[0], d1[0]

    def __call__(self, z: Float32Array, out: Float32Array) -> None:
        """Write h_theta(z) into `out`; both are contiguous float32 of shape (F, 2N + 2R)."""
        if len(z) != self._n_frames:
            raise PairingError(
                f"{len(z)} states were given for {self._n_frames} measurements; expected one each; call "
                "set_measurements first"
            )
        x, d0, d1, seen = self._split(z)
        x_next, d0_next, d1_next, seen_next = self._split(out)

        def data_side() -> None:
            _scatter_difference(seen, d0, self._places, self._flat_data)  # v = A x - d0
            z0 = np.ascontiguousarray(self._consistent(), np.float32)  # Eq. (15)
            _add_gathered(d0, z0.reshape(len(z), -1), self._places, d0_next)
            self._products.images_of_rows(d0_next, x_next)

        def image_side() -> None:
            np.subtract(x, d1, out=self._flat_images)
            z1 = self._regularised()  # Eq. (16)
            np.add(d1, z1.reshape(d1.shape), out=d1_next)

        # Eq. (17), whose last row prints A x_{k+1} for x_{k+1} (compare Eq. (9)). d0 + z0 and d1 + z1
        # appear in the image and in the duals, so they are formed once, in the place of the new duals.
        self._lanes.both(data_side, image_side)
        self._products.add_images_of_images(d1_next, x_next)
        n_rows = self._operators.n_rows
        middle = n_rows // self._lanes.count

        def upper_rows() -> None:
            self._products.rows_of(x_next, seen_next, 0, middle)
            d0_next[:, :middle] -= seen_next[:, :middle]

        def lower_rows() -> None:
            self._products.rows_of(x_next, seen_next, middle, n_rows)
            d0_next[:, middle:] -= seen_next[:, middle:]
            np.subtract(d1_next, x_next, out=d1_next)

        self._lanes.both(upper_rows, lower_rows)

    def evaluate(self, state: NDArray[np.floating]) -> Float32Array:
        """Return h_theta of one frame's (x, d0, d1), both float32 (2N + R,): A x is computed for it.

        It serves to look at the map itself; the iteration carries A x along.
        """
        n_voxels = self.n_voxels
        x, d0, d1 = np.split(np.asarray(state)[None], [n_voxels, len(state) - n_voxels], axis=1)
        full = self.states(x, d0, d1)
        out = np.empty_like(full)
        self(full, out)
        return out[0, : self.measured]

    def _split(self, states: Float32Array) -> tuple[Float32Array, Float32Array, Float32Array, Float32Array]:
        n, r = self._operators.n_voxels, self._operators.n_rows
        return states[:, :n], states[:, n : n + r], states[:, n + r : 2 * n + r], states[:, 2 * n + r :]

    def _use(self, n_frames: int) -> None:
        """Work on so many frames; make room for them if there never were as many."""
        if n_frames == self._n_frames:
            return
        if n_frames > len(self._inputs.epsilon):
            self._inputs = _NetworkInputs(n_frames, self._image_shape, self._operators.layout.shape)
        self._n_frames = n_frames
        inputs = self._inputs
        self._images, self._data = inputs.images[:n_frames], inputs.data[:n_frames]
        self._measurement = inputs.measurement[:n_frames]
        self._epsilon, self._noise = inputs.epsilon[:n_frames], inputs.noise[:n_frames]
        # The same memory, one row per frame.
        self._flat_images = self._images.reshape(n_frames, -1)
        self._flat_data = self._data.reshape(n_frames, -1)
        self._regularised = bind(
            "image prior", self._prior, self._images, self._noise, frames=IMAGES_AT_A_TIME
        )
        self._consistent = bind(
            "consistency block",
            self._consistency,
            self._data,
            self._measurement,
            self._mask,
            self._epsilon,
            frames=DATA_AT_A_TIME,
        )


class _NetworkInputs:
    """Inputs of the networks. Places that no row selects are never written and stay zero."""

    def __init__(self, n_frames: int, image: tuple[int, int, int], layout: tuple[int, int]) -> None:
        self.images = np.zeros((n_frames, *image), np.float32)
        self.data = np.zeros((n_frames, 2, *layout), np.float32)
        self.measurement = np.zeros_like(self.data)
        self.epsilon = np.zeros((n_frames, 1, 1, 1), np.float32)
        self.noise = np.zeros((n_frames, 1, 1, 1), np.float32)


@kernel("void(float32[:, :], float32[:, :], int64[::1], float32[:, ::1])")
def _scatter_difference(
    rows: Float32Array, subtracted: Float32Array, places: NDArray[np.int64], dense: Float32Array
) -> None:
    """Difference of rows (F, R), scattered: dense[:, places] = rows - subtracted, float32."""
    for frame in range(len(rows)):
        for i in range(len(places)):
            dense[frame, places[i]] = rows[frame, i] - subtracted[frame, i]


@kernel("void(float32[:, :], float32[:, ::1], int64[::1], float32[:, :])")
def _add_gathered(
    rows: Float32Array, dense: Float32Array, places: NDArray[np.int64], out: Float32Array
) -> None:
    """Sum of rows (F, R) and gathered ones: out = rows + dense[:, places], float32."""
    for frame in range(len(rows)):
        for i in range(len(places)):
            out[frame, i] = rows[frame, i] + dense[frame, places[i]]
