"""The data dual an equilibrium starts with: its formula, and that it moves the start, not the answer."""

from dataclasses import replace

import numpy as np
import pytest

from engine.errors import PairingError
from engine.fixed_point.solution import Result
from engine.fixed_point.solve import FixedPointConfig
from engine.solvers.admm.ball_equilibrium import BallEquilibrium
from engine.solvers.deq.equilibrium import Equilibrium
from tests.engine.solvers.test_network_methods import ball, shrink

SIZE = 20.0
"""A start that moves the first images by some 1e-4 of their peak."""

SINGLE = 2e-5
"""Relative: float32 products over some hundred rows."""

STARTED = {1: 5e-5, 4: 4e-4}
"""Relative to the peak, by evaluations: float32 sums over the rows in another order, which the first steps of
the iteration amplify (1e-5 after one, 3.3e-5 after four seen). The start itself moves the image by 5e-4 and
by a tenth."""

CONVERGED = 5e-3
"""Relative to the peak: two solves to a tolerance of 1e-5 of the state, times its condition: 1.2e-3 seen."""


@pytest.fixture(scope="module")
def problem(make_problem):
    return make_problem(11)


def test_the_dual_is_the_unexplained_data_over_sigma(problem) -> None:
    left, _, _ = np.linalg.svd(problem.matrix, full_matrices=False)
    for measurement, y in zip(problem.measurements, problem.data, strict=True):
        outside = y - left @ (left.T @ y)
        sigma = np.linalg.norm(outside) / np.sqrt(y.size - left.shape[1])
        dual = measurement.data_dual(SIZE)
        np.testing.assert_allclose(dual, SIZE * outside / sigma, atol=SINGLE * np.abs(y).max() / sigma)
        assert np.abs(problem.matrix.T @ dual).max() < SINGLE * np.linalg.norm(dual) * 25


def test_noise_that_is_told_too_small_does_not_blow_up_the_start(problem) -> None:
    measurement = problem.measurements[0]
    quiet = replace(measurement, epsilon=measurement.epsilon / 100)
    seen = np.linalg.norm(measurement.outside) / np.sqrt(measurement.y.size)
    np.testing.assert_allclose(quiet.data_dual(SIZE), measurement.outside * SIZE / seen, rtol=SINGLE)


def test_without_a_noise_level_there_is_no_dual(problem) -> None:
    with pytest.raises(PairingError, match="expected a sigma"):
        replace(problem.measurements[0], epsilon=None).data_dual(SIZE)


@pytest.mark.parametrize("iterations", STARTED)
def test_the_compressed_iteration_starts_where_the_full_one_does(problem, iterations) -> None:
    config = FixedPointConfig(memory=0, tolerance=0.0, max_iterations=iterations)
    full = Equilibrium(problem.operators, shrink, ball, config, SIZE).solve(problem.measurements)
    compressed = BallEquilibrium(problem.operators, shrink, config, SIZE).solve(problem.measurements)
    zero = Equilibrium(problem.operators, shrink, ball, config).solve(problem.measurements)
    for a, b, c in zip(full, compressed, zero, strict=True):
        tolerance = STARTED[iterations] * a.value.max()
        np.testing.assert_allclose(a.value, b.value, rtol=0, atol=tolerance)
        assert np.abs(a.value - c.value).max() > 5 * tolerance


def test_the_fixed_point_does_not_depend_on_the_start(problem) -> None:
    config = FixedPointConfig(tolerance=1e-5, max_iterations=3000)
    # A wide ball: the narrower it is, the longer the duals take to come to rest.
    wide = [replace(measurement, epsilon=3 * measurement.epsilon) for measurement in problem.measurements]
    started, from_zero = (
        BallEquilibrium(problem.operators, shrink, config, size).solve(wide) for size in (SIZE, 0.0)
    )
    for a, b in zip(started, from_zero, strict=True):
        assert a.result == b.result == Result.CONVERGED
        np.testing.assert_allclose(a.value, b.value, atol=CONVERGED * b.value.max())
