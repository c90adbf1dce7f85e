"""Anderson weights against least squares, and what they must be invariant to."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.fixed_point.anderson import AndersonHistory

NO_REGULARIZATION = 1e-14
"""Small enough to be invisible next to the tolerances, large enough to keep the system positive."""

WEIGHT_TOLERANCE = 1e-8
"""Two float64 routes to the same weights; the Gram matrix squares a condition number below 100."""


def filled(
    residuals: NDArray[np.float64], memory: int, regularization: float, beta: float = 1.0
) -> AndersonHistory:
    """Give a history with the values f = (i + 1) * residual_i, so that rows can be told apart."""
    history = AndersonHistory(residuals.shape[1], memory, beta, regularization)
    for index, residual in enumerate(residuals):
        value = (index + 1) * residual
        history.push(value - residual, value)
    return history


def well_conditioned(rng: np.random.Generator, rows: int, size: int) -> NDArray[np.float64]:
    orthonormal, _ = np.linalg.qr(rng.standard_normal((size, rows)))
    mixing, _ = np.linalg.qr(rng.standard_normal((rows, rows)))
    return (orthonormal * np.linspace(1.0, 5.0, rows) @ mixing).T


def test_weights_solve_the_constrained_least_squares_problem() -> None:
    residuals = well_conditioned(np.random.default_rng(0), rows=4, size=30)
    weights = filled(residuals, 4, NO_REGULARIZATION).weights()
    # Eliminate the constraint: a_0 = 1 - sum of the others, then ordinary least squares in the differences.
    gamma = np.linalg.lstsq((residuals[1:] - residuals[0]).T, -residuals[0], rcond=None)[0]
    expected = np.concatenate([[1 - gamma.sum()], gamma])
    np.testing.assert_allclose(weights, expected, rtol=0, atol=WEIGHT_TOLERANCE)


def test_regularised_weights_solve_the_stacked_problem() -> None:
    residuals = well_conditioned(np.random.default_rng(1), rows=3, size=20)
    regularization = 0.3
    weights = filled(residuals, 3, regularization).weights()
    shift = regularization * np.mean(np.sum(residuals**2, axis=1))
    stacked = np.vstack([residuals.T, np.sqrt(shift) * np.eye(3)])
    differences = stacked[:, 1:] - stacked[:, :1]
    gamma = np.linalg.lstsq(differences, -stacked[:, 0], rcond=None)[0]
    np.testing.assert_allclose(weights, [1 - gamma.sum(), *gamma], rtol=0, atol=WEIGHT_TOLERANCE)


def test_the_oldest_pair_is_overwritten() -> None:
    residuals = well_conditioned(np.random.default_rng(2), rows=5, size=12)
    history = filled(residuals, 3, 1e-3)
    assert len(history) == 3
    # Storage order after five pushes into three slots: pairs 3, 4, 2 (counted from 0).
    fresh = filled(residuals[[3, 4, 2]], 3, 1e-3)
    np.testing.assert_allclose(history.weights(), fresh.weights(), rtol=0, atol=WEIGHT_TOLERANCE)
    point = np.empty(12)
    history.propose(point)
    values = residuals[[3, 4, 2]] * np.array([[4.0], [5.0], [3.0]])
    np.testing.assert_allclose(point, fresh.weights() @ values, rtol=0, atol=WEIGHT_TOLERANCE)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_one_pair_gives_a_damped_plain_step(beta: float) -> None:
    z, f = np.array([1.0, -2.0, 3.0]), np.array([2.0, 0.5, 3.5])
    history = AndersonHistory(3, 5, beta, 1e-4)
    history.push(z, f)
    point = np.empty(3)
    history.propose(point)
    np.testing.assert_array_equal(point, z + beta * (f - z))


@pytest.mark.parametrize("beta", [0.7, 1.5])
def test_mixing_uses_points_and_residuals(beta: float) -> None:
    rng = np.random.default_rng(3)
    points, residuals = rng.standard_normal((3, 8)), well_conditioned(rng, rows=3, size=8)
    history = AndersonHistory(8, 3, beta, 1e-4)
    for z, g in zip(points, residuals, strict=True):
        history.push(z, z + g)
    proposal = np.empty(8)
    history.propose(proposal)
    expected = history.weights() @ (points + beta * residuals)
    np.testing.assert_allclose(proposal, expected, rtol=0, atol=WEIGHT_TOLERANCE)


@settings(max_examples=50, deadline=None)
@given(scale=st.floats(1e-12, 1e12), seed=st.integers(0, 2**16), rows=st.integers(1, 5))
def test_weights_do_not_depend_on_the_scale_of_the_data(scale: float, seed: int, rows: int) -> None:
    residuals = np.random.default_rng(seed).standard_normal((rows, 10))
    ours, scaled = filled(residuals, 5, 1e-4).weights(), filled(scale * residuals, 5, 1e-4).weights()
    np.testing.assert_allclose(ours.sum(), 1.0, rtol=1e-12)
    # lambda = 1e-4 bounds the condition of the system near 1e4 * rows, far from the rounding of float64.
    np.testing.assert_allclose(scaled, ours, rtol=1e-7, atol=1e-9)


def test_identical_residuals_share_the_weight() -> None:
    """The Gram matrix has rank one here; without regularisation the system would be singular."""
    weights = filled(np.ones((4, 6)), 4, 1e-4).weights()
    np.testing.assert_allclose(weights, 0.25, rtol=1e-10)


def test_clear_forgets_everything() -> None:
    history = filled(np.eye(3), 3, 1e-4)
    history.clear()
    assert len(history) == 0
    history.push(np.array([4.0, 5.0, 6.0]), np.array([5.0, 6.0, 7.0]))
    point = np.empty(3)
    history.propose(point)
    np.testing.assert_array_equal(point, [5.0, 6.0, 7.0])
