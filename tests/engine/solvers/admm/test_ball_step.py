"""The compressed iteration against the same equations on all rows."""

import numpy as np
import pytest

from engine.errors import PairingError
from engine.fixed_point.solve import FixedPointConfig, solve_fixed_point
from engine.mpi.grid import Grid
from engine.operators.factorisation import make_operators
from engine.solvers.admm.ball_step import BallStep
from engine.solvers.deq.admm_step import AdmmStep

EXACT_TOLERANCE = 5e-6
"""Of the state's norm, against double precision: float32 sums of about 100 products, weights at most 1."""

ROWS_TOLERANCE = 4e-5
"""Of the state's norm, against single precision on all rows, whose A x of norm 25 |x| rounds much more."""

BATCH_TOLERANCE = 2e-6
"""Of the state's norm: BLAS sums in another order when it multiplies more rows at once."""


NO_NOISE = np.zeros((1, 1, 1, 1), np.float32)


def random_prior(seed, shape):
    """A map of images that no symmetry hides: a random mixture of voxels, bent, and clipped at zero."""
    rng = np.random.default_rng(seed)
    n = int(np.prod(shape))
    mixture = (np.eye(n) + 0.3 * rng.standard_normal((n, n)) / np.sqrt(n)).astype(np.float32)

    def prior(v, _noise):
        return np.maximum(0.9 * np.tanh(v.reshape(len(v), n) @ mixture), 0).reshape(v.shape)

    return prior


def ball(v, y, _mask, epsilon):
    """Eq. (10) for one frame on the dense layout."""
    difference = v - y
    distance = np.linalg.norm(difference)
    return y + difference * min(1.0, float(epsilon.item()) / distance)


def frame_arrays(problem):
    """What `BallStep.set_measurements` takes, from the full rows in double precision."""
    u = problem.operators.left_singular.astype(np.float64)
    explained = problem.data @ u.T
    remainder = np.linalg.norm(problem.data - explained @ u, axis=1)
    return explained, remainder, np.array([m.epsilon for m in problem.measurements])


def lift(problem, frame, z):
    """State on all R rows of a compressed state."""
    n = problem.operators.n_voxels
    u = problem.operators.left_singular.astype(np.float64)
    y = problem.data[frame]
    remainder = y - u.T @ (u @ y)
    data = z[n : 2 * n] @ u + z[2 * n] * remainder / np.linalg.norm(remainder)
    return np.concatenate([z[:n], data, z[2 * n + 1 :]])


def on_all_rows(problem, frame, prior, z, n_steps):
    """Eqs. (5)-(9) in double precision with A itself; Eq. (7) as the least-squares problem it solves."""
    a, y = problem.matrix, problem.data[frame]
    n_rows, n = a.shape
    _, ny, nx = problem.operators.grid.volume_shape
    x, d0, d1 = np.split(z, [n, n + n_rows])
    stacked = np.vstack([a, np.eye(n)])
    for _ in range(n_steps):
        offset = a @ x - d0 - y
        z0 = y + offset * min(1.0, problem.measurements[frame].epsilon / np.linalg.norm(offset))
        z1 = prior((x - d1).reshape(1, 1, ny, nx), NO_NOISE).reshape(-1)
        x = np.linalg.lstsq(stacked, np.concatenate([z0 + d0, z1 + d1]), rcond=None)[0]
        d0, d1 = d0 + z0 - a @ x, d1 + z1 - x
    return np.concatenate([x, d0, d1])


def relative_distance(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def iterate(step, z, n_steps):
    z = z.copy()
    out = np.full_like(z, np.nan)
    for _ in range(n_steps):
        before = z.copy()
        step(z, out)
        np.testing.assert_array_equal(z, before)
        z, out = out, z
    return z


@pytest.fixture
def step(problem):
    _, ny, nx = problem.operators.grid.volume_shape
    step = BallStep(problem.operators, random_prior(4, (ny, nx)))
    step.set_measurements(*frame_arrays(problem))
    return step


@pytest.fixture
def states(problem):
    """Arbitrary states, duals included, so that every term counts from the first step on."""
    n = problem.operators.n_voxels
    return np.random.default_rng(6).standard_normal((3, 3 * n + 1)).astype(np.float32)


@pytest.mark.parametrize("n_steps", [1, 2, 10])
def test_iterates_are_those_on_all_rows(problem, step, states, n_steps) -> None:
    _, ny, nx = problem.operators.grid.volume_shape
    prior = random_prior(4, (ny, nx))
    found = iterate(step, states, n_steps)
    for frame, z in enumerate(states):
        exact = on_all_rows(problem, frame, prior, lift(problem, frame, z.astype(np.float64)), n_steps)
        assert relative_distance(lift(problem, frame, found[frame]), exact) < EXACT_TOLERANCE


@pytest.mark.parametrize("n_steps", [1, 2, 10])
def test_iterates_are_those_of_the_general_step_with_the_ball(problem, step, states, n_steps) -> None:
    _, ny, nx = problem.operators.grid.volume_shape
    general = AdmmStep(problem.operators, random_prior(4, (ny, nx)), ball)
    found = iterate(step, states, n_steps)
    for frame, z in enumerate(states):
        general.set_measurements(problem.data[frame][None], np.array([problem.measurements[frame].epsilon]))
        n, r = problem.operators.n_voxels, problem.operators.n_rows
        parts = np.split(lift(problem, frame, z).astype(np.float32)[None], [n, n + r], axis=1)
        full = iterate(general, general.states(*parts), n_steps)[0, : general.measured]
        assert relative_distance(lift(problem, frame, found[frame]), full) < ROWS_TOLERANCE


def test_the_measurement_holds_the_arrays_that_a_step_needs(problem) -> None:
    explained, remainder, _ = frame_arrays(problem)
    for frame, measurement in enumerate(problem.measurements):
        assert relative_distance(measurement.explained, explained[frame]) < EXACT_TOLERANCE
        # U U^T y is rounded before it is subtracted: at 40 dB the remainder is a hundredth of y.
        assert measurement.remainder == pytest.approx(remainder[frame], rel=1e-4)


def test_data_within_the_ball_are_left_alone(problem, states) -> None:
    """With epsilon beyond every distance z0 = A x - d0, so the data dual is A (x - x')."""
    explained, remainder, epsilon = frame_arrays(problem)
    step = BallStep(problem.operators, lambda v, _noise: 0.5 * v)
    step.set_measurements(explained, remainder, np.full_like(epsilon, 1e6))
    found = iterate(step, states, 1)
    n = problem.operators.n_voxels
    s, v = problem.operators.singular_values, problem.operators.right_singular.astype(np.float64)
    expected = (states[:, :n].astype(np.float64) - found[:, :n]) @ v * s
    assert relative_distance(found[:, n : 2 * n], expected) < EXACT_TOLERANCE * s[0]
    # The component along y - U U^T y: z0 = -d0 there, so the new dual is zero.
    np.testing.assert_allclose(found[:, 2 * n], 0, atol=EXACT_TOLERANCE * np.linalg.norm(explained))


def test_a_frame_does_not_depend_on_the_others(problem, step, states) -> None:
    together = iterate(step, states, 10)
    arrays = frame_arrays(problem)
    for frame in (2, 0, 1):
        step.set_measurements(*(array[frame : frame + 1] for array in arrays))
        alone = iterate(step, states[frame : frame + 1], 10)
        assert relative_distance(alone[0], together[frame]) < BATCH_TOLERANCE


def test_new_measurements_leave_nothing_of_the_old_ones(problem, step, states) -> None:
    expected = iterate(step, states, 1)
    step.set_measurements(np.ones((3, problem.operators.n_voxels)), np.ones(3), np.ones(3))
    iterate(step, states, 1)
    step.set_measurements(*frame_arrays(problem))
    np.testing.assert_array_equal(iterate(step, states, 1), expected)


def test_start_has_zero_duals(problem, step) -> None:
    n = problem.operators.n_voxels
    images = np.arange(2 * n, dtype=np.float64).reshape(2, n)
    state = step.start(images)
    assert state.shape == (2, step.state_size)
    assert state.dtype == np.float32
    np.testing.assert_array_equal(state[:, :n], images)
    assert not state[:, n:].any()


def test_one_frame_suits_the_accelerated_solver(problem, step) -> None:
    """The fixed point that Anderson finds is one of the equations on all rows."""
    _, ny, nx = problem.operators.grid.volume_shape
    prior = random_prior(4, (ny, nx))
    step.set_measurements(*(array[:1] for array in frame_arrays(problem)))
    start = step.start(problem.measurements[0].start[None])[0]
    config = FixedPointConfig(tolerance=1e-5, max_iterations=200)
    solution = solve_fixed_point(lambda z, out: step(z[None], out[None]), start, config)
    assert solution.result.is_success
    point = lift(problem, 0, solution.value.astype(np.float64))
    assert relative_distance(on_all_rows(problem, 0, prior, point, 1), point) < 2 * config.tolerance


def test_the_prior_sees_images_with_x_along_the_last_axis(problem, states) -> None:
    seen = []

    def prior(v, _noise):
        seen.append(v.copy())
        return v

    step = BallStep(problem.operators, prior)
    step.set_measurements(*frame_arrays(problem))
    iterate(step, states, 1)
    n = problem.operators.n_voxels
    expected = problem.operators.grid.to_volume(states[:, :n] - states[:, 2 * n + 1 :])
    assert seen[0].dtype == np.float32
    np.testing.assert_array_equal(seen[0], expected)


def test_a_volume_goes_to_the_prior_slice_by_slice(make_system_matrix) -> None:
    grid = Grid((3, 2, 4), (0.01, 0.01, 0.01))
    operators = make_operators(make_system_matrix(grid, 30, (4, 8), 1))
    seen = []

    def prior(v, _noise):
        seen.append(v.copy())
        return v

    step = BallStep(operators, prior)
    step.set_measurements(np.ones((1, 24)), np.ones(1), np.ones(1))
    images = np.arange(24, dtype=np.float32)[None]
    step(step.start(images), np.empty((1, step.state_size), np.float32))
    np.testing.assert_array_equal(seen[0], grid.to_volume(images))


def test_a_prior_that_changes_the_shape_is_refused(problem, states) -> None:
    step = BallStep(problem.operators, lambda v, _noise: v[0])
    step.set_measurements(*frame_arrays(problem))
    with pytest.raises(PairingError, match="image prior returned"):
        step(states, np.empty_like(states))
