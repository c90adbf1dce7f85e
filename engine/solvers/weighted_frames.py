"""Hand-set weights of many frames, for all solvers with some: checked, looked up per frame, accounted for."""

import math
from collections.abc import Iterable, Sequence

from engine.arrays import Float32Array
from engine.errors import ConfigError
from engine.fixed_point.solution import Result, Solution, SolveStats
from engine.measurement.normalization import NormalizedMeasurement
from engine.solvers.regularization import MethodWeights


def check_weights(method: str, weights: MethodWeights, *names: str) -> None:
    """Raise ConfigError unless the weights have exactly the names that a method has."""
    if set(weights.curves) != set(names):
        raise ConfigError(f"the weights of {method} are {sorted(weights.curves)}; expected {sorted(names)}")


def check_tolerance(tolerance: float) -> None:
    """Raise ConfigError unless the tolerance is a number of at least 0."""
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ConfigError(f"tolerance is {tolerance!r}; expected a non-negative number")


def weights_per_frame(
    weights: MethodWeights, measurements: Sequence[NormalizedMeasurement]
) -> list[dict[str, float]]:
    """Return each measurement's weights by name.

    Raises
    ------
    ConfigError
        If a weight depends on the SNR, and that of a measurement is not known.
    """
    return [weights.at(measurement.snr_db) for measurement in measurements]


def solution_per_frame(
    images: Iterable[Float32Array],
    histories: Sequence[Sequence[float]],
    tolerance: float,
    weights: MethodWeights,
    measurements: Sequence[NormalizedMeasurement],
    at_limit: Result = Result.MAX_ITERATIONS,
) -> list[Solution]:
    """Account for frames that were solved together.

    Parameters
    ----------
    images : iterable of ndarray of float32, each of shape (N,)
        Images, one per frame.
    histories : sequence of sequence of float
        Residuals of each frame, one per iteration it took part in.
    tolerance : float
        Largest last residual of a frame that has converged.
    weights : MethodWeights
        Weights that the frames were solved with.
    measurements : sequence of NormalizedMeasurement
        Measurements, one per frame.
    at_limit : Result, optional
        End of a frame that did not converge.

    Returns
    -------
    list of Solution
        Solutions, one per frame.
    """
    return [
        Solution(
            image,
            Result.CONVERGED if history[-1] <= tolerance else at_limit,
            SolveStats(
                len(history),
                tuple(history),
                weights=weights.at(measurement.snr_db),
                weights_clamped=not weights.covers(measurement.snr_db),
            ),
        )
        for image, history, measurement in zip(images, histories, measurements, strict=True)
    ]
