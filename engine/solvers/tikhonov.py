"""Tikhonov-regularised least squares in closed form, the linear baseline with a tunable weight."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.fixed_point.solution import Result, Solution, SolveStats
from engine.measurement.normalization import NormalizedMeasurement
from engine.operators.operators import Operators
from engine.solvers.regularization import MethodWeights
from engine.solvers.weighted_frames import check_weights, weights_per_frame


class Tikhonov:
    """min ||A x - y||^2 + lambda ||x||^2, negative values set to zero.

    With A = U diag(s) V^T the minimum is x = V diag(s / (s^2 + lambda)) U^T y. Clipping it is not the minimum
    over x >= 0, for which `art` is.

    Parameters
    ----------
    operators : Operators
        Operators of the system matrix.
    weights : MethodWeights
        `lambda`, for A of norm `SPECTRAL_NORM`. There is nothing to iterate.

    Raises
    ------
    ConfigError
        If the weights are not this method's.
    """

    method = "tikhonov"

    def __init__(self, operators: Operators, weights: MethodWeights) -> None:
        check_weights(self.method, weights, "lambda")
        self.operators = operators
        self.weights = weights
        self._basis = operators.right_singular.astype(np.float64)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Nothing is to be set but the weight, which the report names."""
        return {}

    def solve(self, measurements: Sequence[NormalizedMeasurement], /) -> list[Solution]:
        """Solve for one image per measurement.

        Raises
        ------
        ConfigError
            If the weight depends on the SNR, and that of a measurement is not known.
        """
        weights = weights_per_frame(self.weights, measurements)
        damping = np.array([[frame["lambda"]] for frame in weights])
        explained = np.stack([measurement.explained for measurement in measurements]).astype(np.float64)
        s = self.operators.singular_values
        images = np.maximum((s / (s**2 + damping) * explained) @ self._basis.T, 0).astype(np.float32)
        return [
            Solution(
                image,
                Result.DIRECT,
                SolveStats(0, (), weights=used, weights_clamped=not self.weights.covers(measurement.snr_db)),
            )
            for image, used, measurement in zip(images, weights, measurements, strict=True)
        ]
