"""Plain iteration of a map on the states of many frames, each frame until its own tolerance is met."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from engine.arrays import Float32Array
from engine.errors import NonFiniteError
from engine.fixed_point.safeguard import TINY_NORM

FramesStep = Callable[[Float32Array, Float32Array], None]
"""A map of all frames: `step(z, out)` writes the next states, float32 (F, n), into `out`, leaving z alone."""


def iterate_plain(
    step: FramesStep, z: Float32Array, iterations: int, tolerance: float
) -> tuple[Float32Array, list[list[float]], NDArray[np.int64]]:
    """Take plain steps z <- f(z); a frame ends at its tolerance, all end at the iteration limit.

    The residual of a step is the relative change of the whole state, ||f(z) - z|| / (||f(z)|| + 1e-12), as in
    `solve_fixed_point`. A frame that meets the tolerance keeps the state that it has then, so its result
    is the same whatever frames it is solved with. It stays in the batch: few frames end much before the last.

    Parameters
    ----------
    step : callable
        The map of all frames. The arrays are reused; the step must not keep them.
    z : ndarray of float32, shape (F, n)
        First states; not changed.
    iterations : int
        Most steps to take.
    tolerance : float
        Residual at which a frame ends.

    Returns
    -------
    states : ndarray of float32, shape (F, n)
        Last state of each frame.
    residuals : list of list of float
        Residuals of each frame, one per step.
    steps : ndarray of int64, shape (F,)
        Steps taken by each frame.

    Raises
    ------
    NonFiniteError
        If the map gives NaN or infinity.
    """
    point, value = np.array(z, order="C"), np.empty(z.shape, z.dtype)
    exact = np.empty(z.shape)  # float64, for the norms
    states = np.empty_like(point)
    history = np.empty((iterations, len(z)))
    steps = np.full(len(z), iterations)
    is_open = np.ones(len(z), bool)
    for iteration in range(1, iterations + 1):
        step(point, value)
        residuals = history[iteration - 1]
        residuals[...] = _relative_changes(point, value, exact)
        if not np.all(np.isfinite(residuals[is_open])):
            raise NonFiniteError(
                f"iteration {iteration} gave NaN or infinity; expected finite values; check the measurement, "
                "the operators and the networks"
            )
        ended = is_open & (residuals <= tolerance)
        if ended.any():
            states[ended] = value[ended]
            steps[ended] = iteration
            is_open &= ~ended
            if not is_open.any():
                break
        point, value = value, point
    states[is_open] = point[is_open]
    return states, [history[:n, frame].tolist() for frame, n in enumerate(steps)], steps


def _relative_changes(
    point: Float32Array, value: Float32Array, exact: NDArray[np.float64]
) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # inf - inf and inf / inf: the caller looks at the result
        exact[...] = value
        size = np.sqrt(np.einsum("fi,fi->f", exact, exact))
        exact -= point
        change: NDArray[np.float64] = np.sqrt(np.einsum("fi,fi->f", exact, exact)) / (size + TINY_NORM)
    return change
