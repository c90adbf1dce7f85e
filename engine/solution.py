"""What every iterative solve returns: the value, how it ended, and what it did on the way."""

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray


class Result(Enum):
    """How a solve ended. The values are the sentences shown to people."""

    CONVERGED = "the residual fell below the tolerance"
    MAX_ITERATIONS = "the iteration limit was reached before the tolerance"
    DIRECT = "the answer needs no iteration"
    ZERO_MEASUREMENT = "the measurement is zero, so the image is zero"

    @property
    def is_success(self) -> bool:
        """Whether the value solves the problem to the accuracy asked for."""
        return self is not Result.MAX_ITERATIONS


@dataclass(frozen=True)
class SolveStats:
    """The account of one solve.

    Attributes
    ----------
    iterations : int
        Evaluations of the fixed-point map (or sweeps of a row method).
    residuals : tuple of float
        Relative residual after each iteration, length `iterations`.
    restarts : int
        How often the safeguard rejected an accelerated step and fell back to a plain one.
    """

    iterations: int
    residuals: tuple[float, ...]
    restarts: int = 0


@dataclass(frozen=True)
class Solution:
    """Value, result and statistics of one solve.

    Attributes
    ----------
    value : ndarray
        The best iterate found; always finite.
    result : Result
        How the solve ended. A solve that did not converge says so here.
    stats : SolveStats
        Iterations and residual history.
    """

    value: NDArray[np.floating]
    result: Result
    stats: SolveStats
