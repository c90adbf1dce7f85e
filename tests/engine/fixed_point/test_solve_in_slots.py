"""The iteration over slots decides as `solve_fixed_point` does, whatever the map."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import NonFiniteError
from engine.fixed_point.solution import Result
from engine.fixed_point.solve import FixedPointConfig, solve_fixed_point
from engine.fixed_point.solve_in_slots import START_SLOT, Evaluation, slots_needed, solve_in_slots

Array = np.ndarray

RESIDUAL_TOLERANCE = 1e-5
"""Relative: both iterate in double precision, but nearly dependent residuals amplify its rounding, by
1 / lambda = 1e4 and once more per step."""

RESIDUAL_FLOOR = 1e-9
"""Relative residuals below it are rounding of the states."""


class SlotMap:
    """A map with its slots in host memory; refuses to overwrite what the evaluation reads."""

    def __init__(self, function: Callable[[Array], Array], start: Array, n_slots: int) -> None:
        self._function = function
        self.values = np.full((n_slots, start.size), 1e3)  # stale content must not matter
        self.residuals = np.full((n_slots, start.size), 1e3)
        self.values[START_SLOT], self.residuals[START_SLOT] = start, 0.0

    @property
    def n_slots(self) -> int:
        return len(self.values)

    def evaluate(self, weights: Array, damping: float, slot: int) -> Evaluation:
        assert weights[slot] == 0.0
        assert math.isclose(weights.sum(), 1.0)
        point = weights @ (self.values - damping * self.residuals)
        value = self._function(point)
        residual = value - point
        self.values[slot], self.residuals[slot] = value, residual
        products = self.residuals @ residual
        products[slot] = np.nan  # has no meaning
        return Evaluation(products, residual @ residual, value @ value)


def both(function, start, config):
    def step(z: Array, out: Array) -> None:
        out[...] = function(z)

    expected = solve_fixed_point(step, start, config)
    store = SlotMap(function, start, slots_needed(config))
    return expected, solve_in_slots(store, config), store


def agree(function, start, config) -> None:
    expected, found, store = both(function, start, config)
    assert found.result is expected.result
    assert (found.stats.iterations, found.stats.restarts) == (
        expected.stats.iterations,
        expected.stats.restarts,
    )
    np.testing.assert_allclose(
        found.stats.residuals, expected.stats.residuals, rtol=RESIDUAL_TOLERANCE, atol=RESIDUAL_FLOOR
    )
    scale = np.linalg.norm(expected.value)
    np.testing.assert_allclose(
        store.values[found.slot], expected.value, rtol=0, atol=RESIDUAL_TOLERANCE * max(scale, 1.0)
    )


def affine(seed, size, radius):
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.standard_normal((size, size)))
    matrix = basis * rng.uniform(-radius, radius, size) @ basis.T
    offset = rng.standard_normal(size)
    return lambda z: matrix @ z + offset


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 30),
    radius=st.floats(0.1, 1.2),
    memory=st.integers(0, 5),
    beta=st.sampled_from([0.5, 1.0]),
)
def test_affine_maps(seed, size, radius, memory, beta) -> None:
    config = FixedPointConfig(memory=memory, beta=beta, tolerance=1e-4, max_iterations=12)
    agree(affine(seed, size, radius), np.zeros(size), config)


def bent(z: Array) -> Array:
    """Fixed point 10; accelerated steps from the right overshoot, so the safeguard goes back to the best."""
    return z - 0.5 * (1.0 - np.exp(10.0 - z))


def test_the_safeguard_goes_back_to_the_best_point() -> None:
    config = FixedPointConfig(tolerance=1e-7, max_iterations=100)
    expected, _, _ = both(bent, np.array([16.0, 14.0]), config)
    assert expected.stats.restarts >= 1
    assert expected.result is Result.CONVERGED
    agree(bent, np.array([16.0, 14.0]), config)


def test_a_second_rejection_from_the_same_point_takes_a_plain_step() -> None:
    rng = np.random.default_rng(30)
    matrix, offset, start = 0.5 * rng.standard_normal((3, 3)), rng.standard_normal(3), rng.standard_normal(3)

    def wave(z: Array) -> Array:
        return 1.5 * np.sin(matrix @ z + offset)

    config = FixedPointConfig(tolerance=1e-4, max_iterations=60)
    expected, _, _ = both(wave, start, config)
    assert expected.stats.restarts >= 2
    assert expected.result is Result.CONVERGED
    agree(wave, start, config)


def test_over_relaxation_behind_the_safeguard() -> None:
    """beta = 2 multiplies the error of a map of slope -0.8 by -2.6 per step: plain steps must take over."""
    config = FixedPointConfig(memory=0, beta=2.0, tolerance=1e-6, max_iterations=30)
    expected, _, _ = both(lambda z: 1.0 - 0.8 * z, np.array([0.56, 0.55]), config)
    assert expected.stats.restarts >= 2
    agree(lambda z: 1.0 - 0.8 * z, np.array([0.56, 0.55]), config)


def test_the_best_value_survives_while_later_ones_are_written() -> None:
    rates = np.array([0.5, 1.5])
    config = FixedPointConfig(memory=0, tolerance=1e-8, max_iterations=25)
    agree(lambda z: 1.0 + rates * (z - 1.0), np.array([2.0, 1.001]), config)
    _, found, _ = both(lambda z: 1.0 + rates * (z - 1.0), np.array([2.0, 1.001]), config)
    assert found.result is Result.MAX_ITERATIONS
    assert 0 < int(np.argmin(found.stats.residuals)) < 24


def test_one_evaluation_is_a_valid_budget() -> None:
    agree(np.cos, np.zeros(2), FixedPointConfig(max_iterations=1))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_raises(bad) -> None:
    store = SlotMap(lambda _: np.array([0.5, bad]), np.ones(2), 7)
    with np.errstate(invalid="ignore"), pytest.raises(NonFiniteError, match="evaluation 1 "):
        solve_in_slots(store, FixedPointConfig())
