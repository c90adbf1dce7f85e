"""Safeguarded Anderson iteration of a map whose states stay on a device, in numbered slots.

The iteration of `engine.fixed_point.solve_fixed_point`, decision by decision, for a map that never shows its
states: it is told how to mix them, writes the new one into a slot, and answers with a few inner products.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.anderson_system import AndersonSystem
from engine.errors import NonFiniteError
from engine.fixed_point import GROWTH_LIMIT, TINY_NORM, FixedPointConfig
from engine.solution import Result, SolveStats

START_SLOT = 0
"""Where the first point is put before a solve, as a value with residual zero."""

SPARE_SLOTS = 2
"""Slots beyond the memory: one for the best value seen, one to write the next value into."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation of the map tells of the value f and the residual g = f - z it wrote into a slot.

    Attributes
    ----------
    products : ndarray of float64, shape (n_slots,)
        Inner products of g with the residuals of all slots; that of the slot written has no meaning.
    squared_residual, squared_value : float
        ||g||^2 and ||f||^2 over the whole state.
    """

    products: NDArray[np.float64]
    squared_residual: float
    squared_value: float


class SlotStep(Protocol):
    """A map with a store of `n_slots` values and residuals, one pair per slot."""

    @property
    def n_slots(self) -> int:
        """Number of slots."""
        ...

    def evaluate(self, weights: NDArray[np.float64], damping: float, slot: int) -> Evaluation:
        """Evaluate f at z = sum_i a_i (f_i - damping g_i); put f(z) and f(z) - z into a slot.

        Parameters
        ----------
        weights : ndarray of float64, shape (n_slots,)
            a, of sum 1; zero for the slot that is written.
        damping : float
            1 - beta; with 0 the point is a mixture of values alone.
        slot : int
            Where to put the new pair.
        """
        ...


@dataclass(frozen=True)
class SlotSolution:
    """Where the best value is, and how the solve went.

    Attributes
    ----------
    slot : int
        Of f(z) at the smallest residual seen.
    result : Result
        CONVERGED or MAX_ITERATIONS.
    stats : SolveStats
        One relative residual per evaluation.
    """

    slot: int
    result: Result
    stats: SolveStats


def slots_needed(config: FixedPointConfig) -> int:
    """Return the number of slots that a solve with these settings uses."""
    return max(1, config.memory) + SPARE_SLOTS


def solve_in_slots(step: SlotStep, config: FixedPointConfig) -> SlotSolution:
    """Find z = f(z) from the point in `START_SLOT`.

    Safeguard, restarts and stopping rule are those of `solve_fixed_point`.

    Parameters
    ----------
    step : SlotStep
        Map and store, of at least `slots_needed(config)` slots.
    config : FixedPointConfig
        History, damping and stopping rule.

    Returns
    -------
    SlotSolution

    Raises
    ------
    NonFiniteError
        If f returns NaN or infinity.
    """
    history = AndersonSystem(step.n_slots, max(1, config.memory), config.regularization)
    weights, damping = _one_of(step.n_slots, START_SLOT), 0.0
    best, best_slot, resumed_at, newest = math.inf, START_SLOT, math.inf, START_SLOT
    restarts, residuals, bold = 0, list[float](), False
    for evaluation in range(1, config.max_iterations + 1):
        slot = _free_slot(step.n_slots, {*np.flatnonzero(weights), *history.held, best_slot})
        seen = step.evaluate(weights, damping, slot)
        residual = _relative_residual(seen, evaluation)
        residuals.append(residual)
        rejected = bold and residual > GROWTH_LIMIT * best
        if residual < best:
            best, best_slot = residual, slot
        if residual <= config.tolerance:
            break
        if rejected:
            restarts += 1
            weights, damping = _one_of(step.n_slots, newest if best == resumed_at else best_slot), 0.0
            resumed_at = best
            history.clear()
        else:
            history.push(slot, seen.products, seen.squared_residual)
            newest = slot
            weights, damping = history.weights(), 1.0 - config.beta
        bold = not rejected and (len(history) > 1 or config.beta > 1.0)
    result = Result.CONVERGED if best <= config.tolerance else Result.MAX_ITERATIONS
    return SlotSolution(best_slot, result, SolveStats(len(residuals), tuple(residuals), restarts))


def _one_of(n_slots: int, slot: int) -> NDArray[np.float64]:
    weights = np.zeros(n_slots)
    weights[slot] = 1.0
    return weights


def _free_slot(n_slots: int, taken: set[int]) -> int:
    """Return a slot that nobody reads any more: at most memory + 1 are taken."""
    return next(slot for slot in range(n_slots) if slot not in taken)


def _relative_residual(seen: Evaluation, evaluation: int) -> float:
    squares = (seen.squared_residual, seen.squared_value)
    if not all(0.0 <= square < math.inf for square in squares):  # NaN compares false
        raise NonFiniteError(
            f"evaluation {evaluation} of the fixed-point map gave NaN or infinity; "
            "expected finite values; check the measurement, the operators and the networks"
        )
    return math.sqrt(seen.squared_residual) / (math.sqrt(seen.squared_value) + TINY_NORM)
