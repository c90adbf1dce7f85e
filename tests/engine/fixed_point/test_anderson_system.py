"""The small system gives the weights of the history that holds the vectors themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.fixed_point.anderson import AndersonHistory, AndersonSystem

WEIGHT_TOLERANCE = 1e-7
"""Absolute: the same 5 x 5 system with its unknowns in another order; lambda bounds its condition by 5e4."""

REGULARIZATION = 1e-4


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000), memory=st.integers(1, 5), pushes=st.integers(1, 12), size=st.integers(1, 30)
)
def test_weights_are_those_of_the_history(seed, memory, pushes, size) -> None:
    rng = np.random.default_rng(seed)
    history = AndersonHistory(size, memory, 1.0, REGULARIZATION)
    system = AndersonSystem(memory + 2, memory, REGULARIZATION)
    residuals = np.zeros((memory + 2, size))
    rows: list[int] = []  # the slot of each row of the history
    for push in range(pushes):
        residual = rng.standard_normal(size) * 10.0 ** rng.uniform(-2, 0)
        slot = int(rng.choice([s for s in range(memory + 2) if s not in system.held]))
        if push < memory:
            rows.append(slot)
        else:
            rows[push % memory] = slot
        residuals[slot] = residual
        system.push(slot, residuals @ residual, residual @ residual)
        history.push(np.zeros(size), residual)
        weights = system.weights()
        np.testing.assert_allclose(weights[rows], history.weights(), rtol=0, atol=WEIGHT_TOLERANCE)
        assert set(np.flatnonzero(weights)) <= set(system.held) == set(rows)
    assert len(system) == min(pushes, memory)


def test_products_with_slots_that_are_not_held_do_not_matter() -> None:
    weights = []
    for stale in (0.0, 1e30, np.inf):
        system = AndersonSystem(4, 2, REGULARIZATION)
        system.push(2, np.array([stale, stale, 7.0, stale]), 4.0)
        system.push(0, np.array([-1.0, stale, 1.0, stale]), 1.0)
        weights.append(system.weights())
    gram = np.array([[1.0, 1.0], [1.0, 4.0]]) + REGULARIZATION * 2.5 * np.eye(2)
    solution = np.linalg.solve(gram, np.ones(2))
    for found in weights:
        np.testing.assert_allclose(found[[0, 2]], solution / solution.sum(), rtol=1e-12)
        np.testing.assert_array_equal(found[[1, 3]], 0.0)


def test_after_clear_nothing_is_held() -> None:
    system = AndersonSystem(3, 1, REGULARIZATION)
    system.push(0, np.zeros(3), 1.0)
    system.clear()
    assert (len(system), system.held) == (0, ())
    system.push(1, np.zeros(3), 2.0)
    np.testing.assert_array_equal(system.weights(), [0.0, 1.0, 0.0])


def test_the_oldest_is_dropped() -> None:
    system = AndersonSystem(4, 2, REGULARIZATION)
    for slot in (3, 1, 2):
        system.push(slot, np.zeros(4), 1.0)
    assert system.held == (1, 2)
    assert system.weights() == pytest.approx([0.0, 0.5, 0.5, 0.0])
