"""Solution of every iterative solve: the value, how it ended, and what it did on the way."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray


class Result(Enum):
    """Result of a solve: how it ended. The values are the sentences shown to people."""

    CONVERGED = "the residual fell below the tolerance"
    MAX_ITERATIONS = "the iteration limit was reached before the tolerance"
    DEADLINE = "the time was up before the tolerance; this is the best iterate by then"
    DIRECT = "the answer needs no iteration"
    FIXED_ITERATIONS = "the method is defined by its number of iterations, and they were done"
    ZERO_MEASUREMENT = "the measurement is zero, so the image is zero"

    @property
    def is_success(self) -> bool:
        """Whether the value solves the problem to the accuracy asked for."""
        return self not in (Result.MAX_ITERATIONS, Result.DEADLINE)


@dataclass(frozen=True)
class SolveStats:
    """The account of one solve.

    Attributes
    ----------
    iterations : int
        Evaluations of the fixed-point map, or sweeps of a row method.
    residuals : tuple of float
        Relative residual after each iteration, length `iterations`.
    restarts : int
        Number of accelerated steps that the safeguard rejected to fall back to a plain one.
    weights : mapping of str to float
        Hand-set weights that the solve used, by name; empty for a method without.
    weights_clamped : bool
        Whether the SNR of the measurement lies outside the range that the weights were tuned for, so that
        those of the nearest end were used.
    """

    iterations: int
    residuals: tuple[float, ...]
    restarts: int = 0
    weights: Mapping[str, float] = field(default_factory=dict)
    weights_clamped: bool = False


@dataclass(frozen=True)
class Solution:
    """Value, result and statistics of one solve.

    Attributes
    ----------
    value : ndarray of float
        Best iterate found, in the shape and type of the state; always finite.
    result : Result
        End of the solve. One that did not converge says so here.
    stats : SolveStats
        Iterations and residual history.
    """

    value: NDArray[np.floating]
    result: Result
    stats: SolveStats
