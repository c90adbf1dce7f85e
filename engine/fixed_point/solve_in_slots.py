"""Safeguarded Anderson iteration of a map whose states stay on a device, in numbered slots.

The iteration of `engine.fixed_point.solve.solve_fixed_point`, decision by decision, for a map that never
shows its states: it is told how to mix them, writes the new one into a slot, and answers with a few inner
products.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.fixed_point.anderson import AndersonSystem
from engine.fixed_point.config import FixedPointConfig
from engine.fixed_point.safeguard import Safeguard
from engine.fixed_point.solution import Result, SolveStats

START_SLOT = 0
"""Slot in which the first point is put before a solve, as a value with residual zero."""

SPARE_SLOTS = 2
"""Slots beyond the memory: one for the best value seen, one to write the next value into."""


@dataclass(frozen=True)
class Evaluation:
    """Figures of an evaluation of the map: of the value f and the residual g = f - z it wrote into a slot.

    Attributes
    ----------
    products : ndarray of float64, shape (n_slots,)
        Inner products of g with the residuals of all slots; that of the slot written has no meaning.
    squared_residual, squared_value : float
        Squared norms ||g||^2 and ||f||^2 over the whole state.
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
            Weights a, of sum 1; zero for the slot that is written.
        damping : float
            Damping 1 - beta; with 0 the point is a mixture of values alone.
        slot : int
            Slot in which to put the new pair.
        """
        ...


@dataclass(frozen=True)
class SlotSolution:
    """Solution in a slot: where the best value is, and how the solve went.

    Attributes
    ----------
    slot : int
        Slot of f(z) at the smallest residual seen.
    result : Result
        End of the solve: CONVERGED or MAX_ITERATIONS.
    stats : SolveStats
        Account of the solve, with one relative residual per evaluation.
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
    safeguard = Safeguard(config)
    weights, damping = _one_of(step.n_slots, START_SLOT), 0.0
    best_slot = newest = START_SLOT
    while True:
        slot = _free_slot(step.n_slots, {*np.flatnonzero(weights), *history.held, best_slot})
        seen = step.evaluate(weights, damping, slot)
        verdict = safeguard.judge(*_norms(seen))
        if verdict.is_best:
            best_slot = slot
        if verdict.has_ended:
            return SlotSolution(best_slot, *safeguard.account())
        if verdict.is_rejected:
            resumed = best_slot if verdict.resumes_from_best else newest
            weights, damping = _one_of(step.n_slots, resumed), 0.0
            history.clear()
        else:
            history.push(slot, seen.products, seen.squared_residual)
            newest = slot
            weights, damping = history.weights(), 1.0 - config.beta
        safeguard.go_on(verdict, len(history))


def _one_of(n_slots: int, slot: int) -> NDArray[np.float64]:
    weights = np.zeros(n_slots)
    weights[slot] = 1.0
    return weights


def _free_slot(n_slots: int, taken: set[int]) -> int:
    """Return a slot that nobody reads any more: at most memory + 1 are taken."""
    return next(slot for slot in range(n_slots) if slot not in taken)


def _norms(seen: Evaluation) -> tuple[float, float]:
    """Return ||g|| and ||f||; a square that is not one (negative, NaN) gives NaN."""
    squares = (seen.squared_residual, seen.squared_value)
    difference, size = (math.sqrt(square) if square >= 0.0 else math.nan for square in squares)
    return difference, size
