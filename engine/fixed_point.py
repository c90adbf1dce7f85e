"""Solve z = f(z) by safeguarded Anderson iteration, one vector at a time."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.anderson import AndersonHistory
from engine.errors import ConfigError, NonFiniteError
from engine.solution import Result, Solution, SolveStats

GROWTH_LIMIT = 2.0
"""An accelerated point whose residual exceeds this many times the best one is rejected."""

TINY_NORM = 1e-12
"""Keeps the relative residual defined at f(z) = 0."""

Step = Callable[[NDArray[Any], NDArray[Any]], None]
"""`step(z, out)` writes f(z) into `out` and leaves z alone; both have shape (n,) and the state's dtype."""


@dataclass(frozen=True)
class FixedPointConfig:
    """How to iterate, and when to stop.

    Attributes
    ----------
    memory : int
        Anderson history length m; 0 gives plain steps z + beta (f(z) - z).
    beta : float
        Mixing weight; 1 is undamped.
    regularization : float
        Of the Anderson weights, relative to the mean squared residual norm (`AndersonHistory`).
    tolerance : float
        Stop at ||f(z) - z|| / (||f(z)|| + 1e-12) <= tolerance, taken over the whole state.
    max_iterations : int
        Evaluations of f.

    Raises
    ------
    ConfigError
        If a value is of the wrong type or outside its range.
    """

    memory: int = 5
    beta: float = 1.0
    regularization: float = 1e-4
    tolerance: float = 1e-4
    max_iterations: int = 25

    def __post_init__(self) -> None:
        _require_integer("memory", self.memory, minimum=0)
        _require_integer("max_iterations", self.max_iterations, minimum=1)
        _require_number("beta", self.beta, positive=True)
        _require_number("regularization", self.regularization, positive=True)
        _require_number("tolerance", self.tolerance, positive=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FixedPointConfig":
        """Build from plain keys; raise ConfigError on a key that is not a setting."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"unknown solver settings {unknown}; expected some of {sorted(known)}")
        return cls(**values)

    def to_dict(self) -> dict[str, int | float]:
        """Return the settings as plain keys."""
        return asdict(self)


def solve_fixed_point(step: Step, start: NDArray[np.floating], config: FixedPointConfig) -> Solution:
    """Find z = f(z) for one vector.

    The first point is `start`. An accelerated (or over-relaxed) point whose relative residual exceeds
    `GROWTH_LIMIT` times the best so far is rejected: the iteration resumes from f(best) with an empty
    history. If it already resumed from that same point, it takes a plain step from the last accepted point
    instead, because the map is deterministic and would only repeat itself. The value returned is f(z) at the
    smallest residual seen, whether or not that met the tolerance.

    Parameters
    ----------
    step : callable
        `step(z, out)` writes f(z) into `out`. The arrays are reused; the step must not keep them.
    start : ndarray of float, shape (n,)
        First point; it is not changed, and its dtype is the dtype of the iteration.
    config : FixedPointConfig
        History, damping and stopping rule.

    Returns
    -------
    Solution
        Best value (n,), CONVERGED or MAX_ITERATIONS, and one relative residual per evaluation of f.

    Raises
    ------
    NonFiniteError
        If f returns NaN or infinity.
    """
    point = np.array(start, order="C")
    value, best_value = np.empty_like(point), np.empty_like(point)
    exact, difference = np.empty(point.shape), np.empty(point.shape)  # float64, for the norms
    history = AndersonHistory(point.size, max(1, config.memory), config.beta, config.regularization)
    best, resumed_at, restarts, residuals = math.inf, math.inf, 0, list[float]()
    bold = False
    for evaluation in range(1, config.max_iterations + 1):
        step(point, value)
        exact[...] = value
        np.subtract(exact, point, out=difference)
        residual = _norm(difference) / (_norm(exact) + TINY_NORM)
        if not math.isfinite(residual):
            raise NonFiniteError(
                f"evaluation {evaluation} of the fixed-point map gave NaN or infinity; "
                "expected finite values; check the measurement, the operators and the networks"
            )
        residuals.append(residual)
        rejected = bold and residual > GROWTH_LIMIT * best
        if residual < best:
            best = residual
            best_value[...] = value
        if residual <= config.tolerance:
            break
        if rejected:
            restarts += 1
            point[...] = history.newest if best == resumed_at else best_value
            resumed_at = best
            history.clear()
        else:
            history.push(exact, difference)
            history.propose(out=point)
        bold = not rejected and (len(history) > 1 or config.beta > 1.0)
    result = Result.CONVERGED if best <= config.tolerance else Result.MAX_ITERATIONS
    return Solution(best_value, result, SolveStats(len(residuals), tuple(residuals), restarts))


def _norm(vector: NDArray[np.float64]) -> float:
    return math.sqrt(np.dot(vector, vector))


def _require_integer(name: str, value: object, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ConfigError(f"{name} is {value!r}; expected an integer of at least {minimum}")


def _require_number(name: str, value: object, *, positive: bool) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (positive and value == 0):  # type: ignore[operator]
        raise ConfigError(
            f"{name} is {value!r}; expected a {'positive' if positive else 'non-negative'} number"
        )
