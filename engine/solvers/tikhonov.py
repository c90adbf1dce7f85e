"""Tikhonov-regularised least squares by conjugate gradients, the linear baseline with a tunable weight."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.fixed_point.safeguard import TINY_NORM
from engine.fixed_point.solution import Solution
from engine.measurement.normalization import NormalizedMeasurement
from engine.operators.operators import Operators
from engine.solvers.regularization import MethodWeights
from engine.solvers.weighted_frames import (
    check_tolerance,
    check_weights,
    solution_per_frame,
    weights_per_frame,
)

DEFAULT_TOLERANCE = 1e-6
"""Relative residual of the normal equations. At 1e-4 images still differ by decibels from the solution's."""


class CgTikhonov:
    """Minimum of ||A x - y||^2 + lambda ||x||^2 by conjugate gradients from x = 0, then negative values zero.

    The iteration runs in the coordinates of the right singular vectors, x = V z, where the normal matrix
    A^T A + lambda is diagonal. Conjugate gradients do not see the choice of an orthonormal basis, so the
    iterates are those of the system in x. The rounding of V, however, then stays a small turn of the image;
    in a normal matrix that is multiplied out it would drown the small singular values.

    Parameters
    ----------
    operators : Operators
        Operators of the system matrix.
    weights : MethodWeights
        Weight `lambda`, for A of norm `SPECTRAL_NORM`, and the most iterations.
    tolerance : float, optional
        Residual at which a frame ends: ||A^T y - (A^T A + lambda) x|| <= tolerance ||A^T y||.

    Raises
    ------
    ConfigError
        If the weights are not this method's, or the tolerance is negative.
    """

    method = "cg-tikhonov"

    def __init__(
        self, operators: Operators, weights: MethodWeights, tolerance: float = DEFAULT_TOLERANCE
    ) -> None:
        check_weights(self.method, weights)
        check_tolerance(tolerance)
        self.operators = operators
        self.weights = weights
        self.tolerance = tolerance
        self._basis = operators.right_singular.astype(np.float64)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Iteration limit and tolerance."""
        return {"iterations": self.weights.iterations, "tolerance": self.tolerance}

    def solve(self, measurements: Sequence[NormalizedMeasurement], /) -> list[Solution]:
        """Solve for one image per measurement.

        Raises
        ------
        ConfigError
            If the weight depends on the SNR, and that of a measurement is not known.
        """
        weights = weights_per_frame(self.weights, measurements)
        damping = np.array([frame["lambda"] for frame in weights])
        explained = np.stack([measurement.explained for measurement in measurements]).astype(np.float64)
        s = self.operators.singular_values
        coordinates, histories = conjugate_gradients(
            s**2 + damping[:, None], s * explained, self.weights.iterations, self.tolerance
        )
        images = np.maximum(coordinates @ self._basis.T, 0).astype(np.float32)
        return solution_per_frame(images, histories, self.tolerance, self.weights, measurements)


def conjugate_gradients(
    eigenvalues: NDArray[np.float64], right_sides: NDArray[np.float64], iterations: int, tolerance: float
) -> tuple[NDArray[np.float64], list[list[float]]]:
    """Solve diagonal systems by conjugate gradients (Hestenes & Stiefel 1952), each frame with its own steps.

    Parameters
    ----------
    eigenvalues : ndarray of float64, shape (F, N)
        Positive diagonal of each frame's matrix.
    right_sides : ndarray of float64, shape (F, N)
        Right-hand side b of each frame.
    iterations : int
        Most iterations, at least 1.
    tolerance : float
        Residual over ||b|| at which a frame ends, and no longer changes.

    Returns
    -------
    solutions : ndarray of float64, shape (F, N)
        Last iterate of each frame.
    residuals : list of list of float
        Residuals ||b - matrix x|| / ||b|| after each iteration, for each frame.
    """
    x = np.zeros_like(right_sides)
    residual, direction = right_sides.copy(), right_sides.copy()
    squared = np.einsum("fi,fi->f", residual, residual)
    size = np.sqrt(squared)
    histories: list[list[float]] = [[] for _ in range(len(x))]
    is_open = np.ones(len(x), bool)
    for _ in range(iterations):
        image = eigenvalues * direction
        curvature = np.einsum("fi,fi->f", direction, image)
        # A frame that has ended, or whose residual is exactly zero, takes steps of length zero.
        step = np.where(is_open, squared, 0.0) / np.where(curvature > 0, curvature, 1.0)
        x += step[:, None] * direction
        residual -= step[:, None] * image
        previous = squared
        squared = np.einsum("fi,fi->f", residual, residual)
        direction *= (squared / np.where(previous > 0, previous, 1.0))[:, None]
        direction += residual
        relative = np.sqrt(squared) / (size + TINY_NORM)
        for frame in np.flatnonzero(is_open):
            histories[frame].append(float(relative[frame]))
        is_open &= relative > tolerance
        if not is_open.any():
            break
    return x, histories
