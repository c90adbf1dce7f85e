"""The solver on maps whose fixed points are known in closed form."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.errors import ConfigError, NonFiniteError
from engine.fixed_point.safeguard import GROWTH_LIMIT
from engine.fixed_point.solution import Result
from engine.fixed_point.solve import FixedPointConfig, FixedPointSolver, Step, solve_fixed_point
from engine.machine.checked_values import from_plain

Array = NDArray[np.floating]

TIGHT = FixedPointConfig(tolerance=1e-10, max_iterations=200)
LONG = FixedPointConfig(tolerance=1e-8, max_iterations=100)
PLAIN = FixedPointConfig(memory=0, tolerance=1e-10, max_iterations=200)


def as_step(function: Callable[[Array], Array]) -> Step:
    def step(z: Array, out: Array) -> None:
        out[...] = function(z)

    return step


class Recorder:
    """A step that keeps a copy of every point it is evaluated at."""

    def __init__(self, function: Callable[[Array], Array]) -> None:
        self.points: list[Array] = []
        self._function = function

    def __call__(self, z: Array, out: Array) -> None:
        self.points.append(z.copy())
        out[...] = self._function(z)


def affine_contraction(radius: float, size: int = 30) -> tuple[Callable[[Array], Array], Array]:
    """f(z) = B z + b with symmetric B of spectral radius `radius`; fixed point (I - B)^-1 b."""
    rng = np.random.default_rng(7)
    basis, _ = np.linalg.qr(rng.standard_normal((size, size)))
    matrix = basis * np.linspace(-0.3, radius, size) @ basis.T
    offset = rng.standard_normal(size)
    return (lambda z: matrix @ z + offset), np.linalg.solve(np.eye(size) - matrix, offset)


def test_affine_contraction_needs_fewer_evaluations_than_plain_steps() -> None:
    function, exact = affine_contraction(0.9)
    fast = solve_fixed_point(as_step(function), np.zeros(30), TIGHT)
    slow = solve_fixed_point(
        as_step(function), np.zeros(30), FixedPointConfig(0, tolerance=1e-10, max_iterations=500)
    )
    for solution in (fast, slow):
        assert solution.result is Result.CONVERGED
        # Error of the fixed point <= residual / (1 - radius) = 10 x 1e-10 of the norm.
        assert np.linalg.norm(solution.value - exact) <= 1e-9 * np.linalg.norm(exact)
    assert fast.stats.iterations < slow.stats.iterations / 2


def test_plain_steps_follow_the_geometric_rate() -> None:
    """f(z) = z / 2 + 1 has residuals halving; the relative residual is known exactly."""
    solution = solve_fixed_point(as_step(lambda z: 0.5 * z + 1.0), np.zeros(1), PLAIN)
    k = np.arange(1, solution.stats.iterations + 1)
    expected = 0.5 ** (k - 1) / (2.0 - 0.5 ** (k - 1))  # z_k = 2 - 2^(1-k), f - z = 2^-k ...
    np.testing.assert_allclose(solution.stats.residuals, expected, rtol=1e-4, atol=1e-12)
    assert solution.stats.restarts == 0


def test_affine_map_in_the_plane_is_solved_in_four_evaluations() -> None:
    """With m > n and hardly any regularisation Anderson is exact after n + 1 pairs on an affine map."""
    matrix, offset = np.array([[0.2, 0.5], [-0.4, 0.1]]), np.array([1.0, -1.0])
    config = FixedPointConfig(regularization=1e-14, tolerance=1e-9, max_iterations=20)
    solution = solve_fixed_point(as_step(lambda z: matrix @ z + offset), np.zeros(2), config)
    assert solution.stats.iterations == 4
    np.testing.assert_allclose(solution.value, np.linalg.solve(np.eye(2) - matrix, offset), rtol=1e-7)


def test_rotation_about_a_centre() -> None:
    """A rotation is not a contraction: plain steps circle for ever, Anderson finds the centre."""
    angle, centre = 1.0, np.array([2.0, -1.0])
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    function = as_step(lambda z: centre + rotation @ (z - centre))
    plain = solve_fixed_point(function, np.zeros(2), PLAIN)
    assert plain.result is Result.MAX_ITERATIONS
    assert not plain.result.is_success
    assert plain.stats.iterations == 200
    fast = solve_fixed_point(function, np.zeros(2), TIGHT)
    assert fast.result is Result.CONVERGED
    np.testing.assert_allclose(fast.value, centre, rtol=1e-8)


@pytest.mark.parametrize("config", [TIGHT, PLAIN], ids=["anderson", "plain"])
def test_cosine(config: FixedPointConfig) -> None:
    solution = solve_fixed_point(as_step(np.cos), np.array([0.0]), config)
    assert solution.result is Result.CONVERGED
    np.testing.assert_allclose(solution.value, [0.7390851332151607], rtol=1e-9)


def test_state_dtype_is_kept_and_start_is_not_changed() -> None:
    function, exact = affine_contraction(0.5)
    start = np.ones(30, np.float32)
    solution = solve_fixed_point(as_step(function), start, FixedPointConfig(tolerance=1e-5))
    assert solution.value.dtype == np.float32
    np.testing.assert_array_equal(start, np.ones(30, np.float32))
    assert np.linalg.norm(solution.value - exact) <= 1e-4 * np.linalg.norm(exact)


def test_nearly_parallel_residuals() -> None:
    """f(z) = z + tiny direction: every residual is the same, so the Gram matrix is singular to rounding."""
    solution = solve_fixed_point(as_step(lambda z: z + 1.0), np.zeros(4), FixedPointConfig())
    assert solution.result is Result.MAX_ITERATIONS
    assert np.isfinite(solution.value).all()


def test_slow_modes_many_decades_apart_stay_finite_and_improve() -> None:
    rates = 1.0 - np.logspace(-6, 0, 40)
    function = as_step(lambda z: rates * z + (1.0 - rates))  # fixed point 1 everywhere
    solution = solve_fixed_point(function, np.zeros(40, np.float32), FixedPointConfig(max_iterations=60))
    assert np.isfinite(solution.value).all()
    assert min(solution.stats.residuals) < solution.stats.residuals[0] / 100


def bent(z: Array) -> Array:
    """Fixed point 10. To the right f(z) - z is flat, so secants overshoot to the left, where it is steep."""
    return z - 0.5 * (1.0 - np.exp(10.0 - z))


def test_safeguard_goes_back_to_the_best_point() -> None:
    step = Recorder(bent)
    solution = solve_fixed_point(step, np.array([16.0, 14.0]), LONG)
    residuals = solution.stats.residuals
    assert solution.stats.restarts >= 1
    rejected = next(i for i in range(1, len(residuals)) if residuals[i] > GROWTH_LIMIT * min(residuals[:i]))
    best = int(np.argmin(residuals[:rejected]))
    np.testing.assert_array_equal(step.points[rejected + 1], bent(step.points[best]))
    assert solution.result is Result.CONVERGED
    np.testing.assert_allclose(solution.value, [10.0, 10.0], rtol=1e-7)


def test_going_back_to_the_same_point_does_not_become_a_cycle() -> None:
    """On this bending map a solver that always resumes from the best point repeats itself for ever."""
    rng = np.random.default_rng(30)
    matrix, offset, start = 0.5 * rng.standard_normal((3, 3)), rng.standard_normal(3), rng.standard_normal(3)
    step = Recorder(lambda z: 1.5 * np.sin(matrix @ z + offset))
    solution = solve_fixed_point(step, start, FixedPointConfig(max_iterations=60))
    assert solution.stats.restarts >= 2
    assert solution.result is Result.CONVERGED
    assert len({tuple(point) for point in step.points}) >= len(step.points) - 1


def test_the_best_iterate_is_returned() -> None:
    """The first mode converges, the second runs away: the residual falls, then grows."""
    rates = np.array([0.5, 1.5])
    step = Recorder(lambda z: 1.0 + rates * (z - 1.0))
    config = FixedPointConfig(memory=0, tolerance=1e-8, max_iterations=25)
    solution = solve_fixed_point(step, np.array([2.0, 1.001]), config)
    best = int(np.argmin(solution.stats.residuals))
    assert 0 < best < 24
    assert solution.result is Result.MAX_ITERATIONS
    np.testing.assert_array_equal(solution.value, 1.0 + rates * (step.points[best] - 1.0))


def test_nan_and_infinity_raise() -> None:
    for bad in (np.nan, np.inf, -np.inf):

        def step(z: Array, out: Array, bad: float = bad) -> None:
            out[...] = 0.5 * z
            out[1] = bad

        with pytest.raises(NonFiniteError, match="evaluation 1 "):
            solve_fixed_point(step, np.ones(3, np.float32), FixedPointConfig())


def test_fixed_start_needs_one_evaluation() -> None:
    solution = solve_fixed_point(as_step(lambda z: z), np.array([1.0, 2.0]), FixedPointConfig(tolerance=0.0))
    assert solution.result is Result.CONVERGED
    assert solution.stats.residuals == (0.0,)


def test_one_evaluation_is_a_valid_budget() -> None:
    solution = solve_fixed_point(as_step(np.cos), np.zeros(2), FixedPointConfig(max_iterations=1))
    assert solution.stats.iterations == 1
    np.testing.assert_array_equal(solution.value, [1.0, 1.0])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("memory", -1),
        ("memory", 2.0),
        ("memory", True),
        ("max_iterations", 0),
        ("beta", 0.0),
        ("beta", "1"),
        ("regularization", 0),
        ("tolerance", -1e-4),
        ("tolerance", math.nan),
    ],
)
def test_impossible_settings_are_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        from_plain(FixedPointConfig, {key: value})


def test_unknown_settings_are_refused_and_known_ones_survive() -> None:
    with pytest.raises(ConfigError, match="stop_mode"):
        from_plain(FixedPointConfig, {"stop_mode": "rel"})
    config = FixedPointConfig(memory=3, tolerance=1e-6)
    assert from_plain(FixedPointConfig, config.to_dict()) == config


class Contractions:
    """Affine contractions of different strength, one per frame; keeps account of who was evaluated."""

    def __init__(self, rates: Array) -> None:
        self._rates = rates
        self._frames = list(range(len(rates)))
        self.evaluated: list[list[int]] = []

    def __call__(self, z: Array, out: Array) -> None:
        self.evaluated.append(list(self._frames))
        out[...] = self._rates[self._frames] * np.tanh(z) + 1.0

    def keep(self, frames: Sequence[int]) -> None:
        self._frames = [self._frames[row] for row in frames]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), n_frames=st.integers(1, 6), memory=st.integers(0, 4))
def test_frames_solved_together_are_solved_as_alone_and_leave_when_they_are_done(seed, n_frames, memory):
    rng = np.random.default_rng(seed)
    rates, starts = rng.uniform(-0.9, 0.9, (n_frames, 5)), rng.standard_normal((n_frames, 5))
    config = FixedPointConfig(memory=memory, tolerance=1e-9, max_iterations=40)
    solver = FixedPointSolver(config)
    step = Contractions(rates)
    together = solver.solve(step, starts)
    for frame in range(n_frames):
        (alone,) = solver.solve(Contractions(rates[[frame]]), starts[[frame]])
        np.testing.assert_array_equal(together[frame].value, alone.value)
        assert together[frame].stats == alone.stats
        assert sum(frame in frames for frames in step.evaluated) == alone.stats.iterations


def test_entries_behind_the_measured_ones_are_carried_along() -> None:
    """A linear function of the state stays that function of it, and changes neither weights nor residuals."""
    function, exact = affine_contraction(0.9)
    rng = np.random.default_rng(3)
    matrix = rng.standard_normal((7, 30))

    def step(z: Array, out: Array) -> None:
        np.testing.assert_allclose(z[0, 30:], matrix @ z[0, :30], rtol=0, atol=1e-9)
        out[0, :30] = function(z[0, :30])
        out[0, 30:] = matrix @ out[0, :30]

    start = np.concatenate([np.ones(30), matrix @ np.ones(30)])
    for beta in (1.0, 0.7):
        config = FixedPointConfig(beta=beta, tolerance=1e-10, max_iterations=200)
        (carried,) = FixedPointSolver(config, 30).solve(step, start[None])
        plain = solve_fixed_point(as_step(function), np.ones(30), config)
        assert carried.stats.residuals[:10] == pytest.approx(plain.stats.residuals[:10], rel=1e-6)
        np.testing.assert_allclose(carried.value[:30], exact, rtol=0, atol=1e-8)


def test_one_solver_takes_more_and_fewer_frames_in_turn() -> None:
    rng = np.random.default_rng(6)
    solver = FixedPointSolver(FixedPointConfig(tolerance=1e-9, max_iterations=40))
    for n_frames in (5, 2, 3, 1, 0, 4, 7, 6):
        rates, starts = rng.uniform(-0.9, 0.9, (n_frames, 5)), rng.standard_normal((n_frames, 5))
        found = solver.solve(Contractions(rates), starts)
        assert len(found) == n_frames
        for frame in range(n_frames):
            np.testing.assert_allclose(
                found[frame].value, rates[frame] * np.tanh(found[frame].value) + 1.0, rtol=1e-7
            )
