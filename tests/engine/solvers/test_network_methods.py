"""The methods around one network: unrolled, end-to-end and the equilibrium with the l2 ball."""

import numpy as np
import pytest

from engine.errors import ConfigError, NonFiniteError, PairingError
from engine.fixed_point.solution import Result
from engine.fixed_point.solve import FixedPointConfig
from engine.mpi.grid import Grid
from engine.solvers.admm.ball_equilibrium import BallEquilibrium
from engine.solvers.admm.unrolled import Unrolled
from engine.solvers.deq.equilibrium import Equilibrium
from engine.solvers.end_to_end import EndToEnd

SINGLE = 2e-5
"""Relative to the image's peak: single precision over the iterations of two different orders of summation."""

CONVERGED = 1e-3
"""Relative to the peak: two solves to a tolerance of 1e-5 of the state, times the map's condition."""


NO_NOISE = np.zeros((1, 1, 1, 1), np.float32)


def shrink(v, _noise):
    """A prior with a known answer and no state."""
    return np.maximum(0.9 * v - 0.01, 0)


def ball(v, y, _mask, epsilon):
    """The projection of Eq. (10) on the full rows, written out."""
    out = np.empty_like(v)
    for frame in range(len(v)):
        difference = (v[frame] - y[frame]).astype(np.float64)
        norm = np.linalg.norm(difference)
        out[frame] = y[frame] + min(1.0, float(epsilon[frame].item()) / max(norm, 1e-30)) * difference
    return out


def by_hand(problem, measurement, prior, iterations):
    """Eqs. (5)-(10) in double precision with all rows, from (x_LS, 0, 0)."""
    a = problem.matrix
    inverse = np.linalg.inv(np.eye(a.shape[1]) + a.T @ a)
    y = measurement.y.astype(np.float64)
    x, d0, d1 = measurement.start.astype(np.float64), np.zeros(len(y)), np.zeros(a.shape[1])
    for _ in range(iterations):
        v = a @ x - d0
        distance = np.linalg.norm(v - y)
        z0 = y + min(1.0, measurement.epsilon / distance) * (v - y)
        z1 = prior(x - d1, NO_NOISE)
        x = inverse @ (a.T @ (z0 + d0) + z1 + d1)
        d0, d1 = d0 + z0 - a @ x, d1 + z1 - x
    return np.maximum(x, 0)


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_unrolled_iterations_follow_the_equations(problem, iterations) -> None:
    found = Unrolled(problem.operators, shrink, iterations).solve(problem.measurements)
    for solution, measurement in zip(found, problem.measurements, strict=True):
        expected = by_hand(problem, measurement, shrink, iterations)
        np.testing.assert_allclose(solution.value, expected, atol=SINGLE * expected.max())
        assert solution.result is Result.FIXED_ITERATIONS
        assert solution.stats.iterations == len(solution.stats.residuals) == iterations


def test_ball_equilibrium_is_the_equilibrium_with_the_projection(problem) -> None:
    """N + 1 coordinates of the data against all rows."""
    config = FixedPointConfig(tolerance=1e-5, max_iterations=400)
    compressed = BallEquilibrium(problem.operators, shrink, config).solve(problem.measurements)
    complete = Equilibrium(problem.operators, shrink, ball, config).solve(problem.measurements)
    for short, long in zip(compressed, complete, strict=True):
        assert short.result is Result.CONVERGED
        assert long.result is Result.CONVERGED
        np.testing.assert_allclose(short.value, long.value, atol=CONVERGED * long.value.max())


def test_end_to_end_is_one_pass_from_the_least_squares_image(problem) -> None:
    seen = []

    def prior(v, _noise):
        seen.append(v.copy())
        return 2 * v

    found = EndToEnd(problem.operators, prior).solve(problem.measurements)
    nx, ny, _ = problem.operators.grid.size
    assert [v.shape for v in seen] == [(3, 1, ny, nx)]
    for solution, measurement in zip(found, problem.measurements, strict=True):
        np.testing.assert_array_equal(solution.value, np.maximum(2 * measurement.start, 0))
        assert solution.result is Result.DIRECT


def test_methods_do_not_mix_frames(problem) -> None:
    config = FixedPointConfig(max_iterations=10)
    for solver in (
        Unrolled(problem.operators, shrink, 5),
        EndToEnd(problem.operators, shrink),
        BallEquilibrium(problem.operators, shrink, config),
    ):
        together = solver.solve(problem.measurements)
        for solution, measurement in zip(together, problem.measurements, strict=True):
            (alone,) = solver.solve([measurement])
            np.testing.assert_allclose(alone.value, solution.value, atol=SINGLE * solution.value.max())


def test_values_that_are_not_finite_are_an_error(problem) -> None:
    def broken(v, _noise):
        return v + np.nan

    for solver in (
        Unrolled(problem.operators, broken, 5),
        EndToEnd(problem.operators, broken),
        BallEquilibrium(problem.operators, broken),
    ):
        with pytest.raises(NonFiniteError):
            solver.solve(problem.measurements)


def test_no_iteration_is_refused(problem) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        Unrolled(problem.operators, shrink, 0)


def test_networks_need_one_slice(make_system_matrix) -> None:
    from engine.operators.factorisation import make_operators

    operators = make_operators(make_system_matrix(Grid((3, 2, 2), (0.006, 0.004, 0.004)), 30, (6, 8), 1))
    for build in (
        lambda: Unrolled(operators, shrink, 5),
        lambda: EndToEnd(operators, shrink),
        lambda: BallEquilibrium(operators, shrink),
    ):
        with pytest.raises(PairingError, match="2 slices"):
            build()
