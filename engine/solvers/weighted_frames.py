"""What solvers with hand-set weights share: to check them, look them up per frame, and account for them."""

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
    images : iterable of ndarray, each of shape (N,)
        One image per frame.
    histories : sequence of sequence of float
        Each frame's residuals, one per iteration it took part in.
    tolerance : float
        A frame whose last residual is at most this has converged.
    weights : MethodWeights
        Those that the frames were solved with.
    measurements : sequence of NormalizedMeasurement
        One per frame.
    at_limit : Result, optional
        How a frame ended that did not converge.

    Returns
    -------
    list of Solution
        One per frame.
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
