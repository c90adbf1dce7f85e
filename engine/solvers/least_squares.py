"""The truncated least-squares image, the start of the iterative methods."""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.fixed_point.solution import Result, Solution, SolveStats
from engine.measurement.normalization import NormalizedMeasurement
from engine.operators.operators import Operators


class LeastSquares:
    """Least-squares image x_LS = V_r (U_r^T y / (s_r + damping)).

    It is a linear estimate, so values may be negative; nothing is clipped.

    Parameters
    ----------
    operators : Operators
        Operators of the system matrix.
    """

    method = "least-squares"

    def __init__(self, operators: Operators) -> None:
        self.operators = operators

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings in effect."""
        return {"rank": self.operators.rank}

    def solve(self, measurements: Sequence[NormalizedMeasurement], /) -> list[Solution]:
        """Return the least-squares image of every measurement."""
        return [Solution(measurement.start, Result.DIRECT, SolveStats(0, ())) for measurement in measurements]
