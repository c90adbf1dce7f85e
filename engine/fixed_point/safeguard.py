"""Decisions of a fixed-point iteration after each evaluation: to stop, to accept, or to go back."""

import math
from dataclasses import dataclass

from engine.errors import NonFiniteError
from engine.fixed_point.config import FixedPointConfig
from engine.fixed_point.solution import Result, SolveStats

GROWTH_LIMIT = 2.0
"""Multiple of the best residual above which an accelerated point is rejected."""

TINY_NORM = 1e-12
"""Norm added to that of f(z), so that the relative residual is defined at f(z) = 0."""


@dataclass(frozen=True)
class Verdict:
    """Verdict on one evaluation f(z).

    Attributes
    ----------
    is_best : bool
        Whether the residual is the smallest so far, so that f(z) is to be kept.
    has_ended : bool
        Whether the tolerance is met or the limit reached; what follows has no meaning then.
    is_rejected : bool
        Whether to forget the history and resume from a value seen before.
    resumes_from_best : bool
        Whether that is, if rejected, the best value, or else the last one that was accepted.
    """

    is_best: bool
    has_ended: bool
    is_rejected: bool
    resumes_from_best: bool


class Safeguard:
    """The decisions of one solve, whatever holds its vectors.

    An accelerated (or over-relaxed) point whose relative residual exceeds `GROWTH_LIMIT` times the best so
    far is rejected, and the iteration resumes from the best value. If it already resumed from that same
    value, it resumes from the last accepted one instead, because the map is deterministic and would only
    repeat itself.

    Parameters
    ----------
    config : FixedPointConfig
        Damping and stopping rule.
    """

    def __init__(self, config: FixedPointConfig) -> None:
        self._config = config
        self._best = self._resumed_at = math.inf
        self._restarts = 0
        self._residuals: list[float] = []
        self._is_bold = False

    def judge(self, difference: float, size: float) -> Verdict:
        """Take note of an evaluation, and decide.

        Parameters
        ----------
        difference, size : float
            Norms ||f(z) - z|| and ||f(z)||.

        Raises
        ------
        NonFiniteError
            If one of them is NaN or infinite.
        """
        residual = difference / (size + TINY_NORM)
        if not (math.isfinite(residual) and math.isfinite(size)):
            raise NonFiniteError(
                f"evaluation {len(self._residuals) + 1} of the fixed-point map gave NaN or infinity; "
                "expected finite values; check the measurement, the operators and the networks"
            )
        self._residuals.append(residual)
        is_rejected = self._is_bold and residual > GROWTH_LIMIT * self._best
        is_best = residual < self._best
        self._best = min(self._best, residual)
        is_converged = residual <= self._config.tolerance
        resumes_from_best = self._best != self._resumed_at
        if is_rejected and not is_converged:
            self._restarts += 1
            self._resumed_at = self._best
        has_ended = is_converged or len(self._residuals) >= self._config.max_iterations
        return Verdict(is_best, has_ended, is_rejected, resumes_from_best)

    def go_on(self, verdict: Verdict, n_pairs: int) -> None:
        """Take note of how the next point was made: from a history of `n_pairs`, or after a rejection."""
        self._is_bold = not verdict.is_rejected and (n_pairs > 1 or self._config.beta > 1.0)

    def account(self) -> tuple[Result, SolveStats]:
        """Return how the solve ended, and what it did."""
        if self._best <= self._config.tolerance:
            result = Result.CONVERGED
        elif len(self._residuals) >= self._config.max_iterations:
            result = Result.MAX_ITERATIONS
        else:
            result = Result.DEADLINE  # nothing else ends a solve before its limit
        return result, SolveStats(len(self._residuals), tuple(self._residuals), self._restarts)
