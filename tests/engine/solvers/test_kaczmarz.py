from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from engine.errors import ConfigError, NonFiniteError
from engine.fixed_point.solution import Result
from engine.solvers.kaczmarz import FRAMES_TOGETHER, LANES, Kaczmarz, row_orders, sweep_rows
from engine.solvers.regularization import MethodWeights, SnrCurve

ONE_ROW = 2e-6  # one product and one sum over 35 voxels in float32
SWEEPS = 2e-5  # a few hundred such rows, whose errors the projections do not amplify
LIMIT = 1e-5  # where float32 sweeps stall: the rounding of one sweep, times what the next ones leave of it
STALLED = 1e-5  # relative rounding of a distance whose true change is below it
FIVE_SIGMA = 5.0  # of a binomial count: one in two million


def weights(damping=0.5, sweeps=3):
    curve = damping if isinstance(damping, SnrCurve) else SnrCurve.constant(damping)
    return MethodWeights({"lambda": curve}, sweeps)


def with_matrix(operators, matrix):
    """Operators whose rows are others; their factors do not matter here."""
    dense = replace(operators.dense, system_matrix=np.ascontiguousarray(matrix, np.float32))
    return replace(operators, dense=dense)


def row_update(matrix, y, damping, x, v, row):
    """One projection of (x, v), as written in the papers; float64, in place."""
    a = matrix[row]
    beta = (y[row] - a @ x - np.sqrt(damping) * v[row]) / (a @ a + damping)
    x += beta * a
    v[row] += beta * np.sqrt(damping)


def reference_sweeps(matrix, y, damping, orders):
    """The method in plain Python; returns the image and the relative change by each sweep."""
    x, v, changes = np.zeros(matrix.shape[1]), np.zeros(len(y)), []
    for order in orders:
        before = x.copy()
        for row in order:
            row_update(matrix, y, damping, x, v, row)
        x = np.maximum(x, 0)
        changes.append(np.linalg.norm(x - before) / np.linalg.norm(x))
    return x, changes


def compiled_sweep(matrix, data, damping, order, images, dual):
    """Call the kernel with float64 arrays in the shapes of the formulas; returns the new images and duals."""
    images, by_row = images.astype(np.float32), np.ascontiguousarray(dual.T, np.float32)
    rows = np.ascontiguousarray(matrix, np.float32)
    energies = np.sum(rows.astype(np.float64) ** 2, axis=1).astype(np.float32)
    sweep_rows(
        rows,
        energies,
        np.asarray(order, np.int32),
        np.ascontiguousarray(data.T, np.float32),
        np.asarray(damping, np.float32),
        images,
        by_row,
    )
    return images, by_row.T


def tikhonov(matrix, y, damping):
    return np.linalg.solve(matrix.T @ matrix + damping * np.eye(matrix.shape[1]), matrix.T @ y)


@pytest.fixture(scope="module")
def easy(problem):
    """The problem with a well-conditioned matrix, bright images, and data that contradict each other."""
    rng = np.random.default_rng(11)
    matrix = rng.standard_normal(problem.matrix.shape)
    matrix *= rng.uniform(0.3, 2, (len(matrix), 1))  # so that the weighting of the rows matters
    matrix = matrix.astype(np.float32).astype(np.float64)
    truths = rng.uniform(1, 2, problem.truths.shape)
    data = truths @ matrix.T
    data += 0.03 * rng.standard_normal(data.shape)
    return replace(
        problem,
        operators=with_matrix(problem.operators, matrix),
        matrix=matrix,
        truths=truths,
        measurements=tuple(
            replace(measurement, y=y.astype(np.float32))
            for measurement, y in zip(problem.measurements, data, strict=True)
        ),
    )


def values(solutions):
    return np.stack([solution.value for solution in solutions])


def test_one_row_update_is_the_formula(problem):
    rng = np.random.default_rng(0)
    x, v = rng.standard_normal((3, 35)), rng.standard_normal((3, 120))
    damping = np.array([0.3, 1.0, 20.0])
    images, dual = compiled_sweep(problem.matrix, problem.data, damping, [17], x, v)
    for frame in range(3):
        row_update(problem.matrix, problem.data[frame], damping[frame], x[frame], v[frame], 17)
    np.testing.assert_allclose(images, x, rtol=0, atol=ONE_ROW * np.abs(x).max())
    np.testing.assert_allclose(dual, v, rtol=0, atol=ONE_ROW * np.abs(v).max())


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_rows=st.integers(1, 12),
    n_voxels=st.integers(1, 40),
    n_frames=st.integers(1, 5),
    n_visits=st.integers(1, 20),
)
def test_a_sweep_of_any_shape_and_order_is_its_row_updates(seed, n_rows, n_voxels, n_frames, n_visits):
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((n_rows, n_voxels)).astype(np.float32).astype(np.float64)
    data, damping = rng.standard_normal((n_frames, n_rows)), rng.uniform(0.1, 10, n_frames)
    x, v = rng.standard_normal((n_frames, n_voxels)), np.zeros((n_frames, n_rows))
    order = rng.integers(0, n_rows, n_visits)
    images, dual = compiled_sweep(matrix, data, damping, order, x, v)
    for frame in range(n_frames):
        for row in order:
            row_update(matrix, data[frame], damping[frame], x[frame], v[frame], row)
    np.testing.assert_allclose(images, x, rtol=0, atol=SWEEPS * np.abs(x).max())
    np.testing.assert_allclose(dual, v, rtol=0, atol=SWEEPS * max(1, np.abs(v).max()))


def test_solver_does_clipped_sweeps_over_all_rows(problem):
    solutions = Kaczmarz(problem.operators, weights(0.5, sweeps=3), "sequential").solve(problem.measurements)
    for solution, y in zip(solutions, problem.data, strict=True):
        image, changes = reference_sweeps(problem.matrix, y, 0.5, [range(120)] * 3)
        assert (image == 0).any()  # so the clipping is seen
        assert solution.value.shape == (35,)
        assert solution.value.dtype == np.float32
        np.testing.assert_allclose(solution.value, image, rtol=0, atol=SWEEPS)
        assert solution.stats.residuals == pytest.approx(changes, abs=SWEEPS)


def test_weighted_sweeps_are_those_of_the_problem_with_rows_of_norm_one(problem):
    solutions = Kaczmarz(problem.operators, weights(0.05), "sequential", row_weighting="l2").solve(
        problem.measurements
    )
    norms = np.linalg.norm(problem.matrix, axis=1)
    for solution, y in zip(solutions, problem.data, strict=True):
        image, _ = reference_sweeps(problem.matrix / norms[:, None], y / norms, 0.05, [range(120)] * 3)
        np.testing.assert_allclose(solution.value, image, rtol=0, atol=SWEEPS)


@pytest.mark.parametrize(("row_weighting", "damping"), [("none", 5.0), ("l2", 0.8)])
@pytest.mark.parametrize("row_order", ["sequential", "shuffled", "random"])
def test_every_order_converges_to_the_tikhonov_image_where_it_is_positive(
    easy, row_order, row_weighting, damping
):
    solver = Kaczmarz(easy.operators, weights(damping, sweeps=300), row_order, row_weighting)
    scale = np.linalg.norm(easy.matrix, axis=1) if row_weighting == "l2" else np.ones(120)
    images = values(solver.solve(easy.measurements))
    for image, y in zip(images, easy.data, strict=True):
        direct = tikhonov(easy.matrix / scale[:, None], y / scale, damping)
        assert direct.min() > 0.5
        np.testing.assert_allclose(image, direct, rtol=0, atol=LIMIT)


def test_the_two_weightings_have_different_answers(easy):
    plain, weighted = (
        values(Kaczmarz(easy.operators, weights(0.8, 50), row_weighting=choice).solve(easy.measurements))
        for choice in ("none", "l2")
    )
    assert np.abs(plain - weighted).max() > 1000 * LIMIT


def test_clipped_sweeps_approach_the_non_negative_tikhonov_image_monotonically(problem):
    # They are projections onto convex sets that hold this point, so none of them can lead away from it.
    damping, y = 0.5, problem.data[0]
    augmented = np.vstack([problem.matrix, np.sqrt(damping) * np.eye(35)])
    best, _ = nnls(augmented, np.concatenate([y, np.zeros(35)]))
    best_dual = (y - problem.matrix @ best) / np.sqrt(damping)
    images, dual = np.zeros((1, 35)), np.zeros((1, 120))
    distances = []
    for _ in range(200):
        distances.append(np.hypot(np.linalg.norm(images - best), np.linalg.norm(dual - best_dual)))
        images, dual = compiled_sweep(problem.matrix, y[None], [damping], range(120), images, dual)
        images = np.maximum(images, 0)
    assert (best == 0).any()
    assert np.all(np.diff(distances) <= STALLED * distances[0])
    assert distances[-1] < 0.2 * distances[0]


def test_clipped_sweeps_converge(problem):
    solver = Kaczmarz(problem.operators, weights(0.5, sweeps=1000), tolerance=1e-4)
    for solution in solver.solve(problem.measurements):
        assert solution.result is Result.CONVERGED
        assert solution.stats.iterations < 1000
        assert solution.stats.residuals[-1] <= 1e-4 < solution.stats.residuals[-2]
        assert solution.value.min() >= 0


def test_a_frame_ends_at_its_own_tolerance(problem):
    solver = Kaczmarz(problem.operators, weights(0.5, sweeps=500), tolerance=1e-3)
    together = solver.solve(problem.measurements)
    assert len({solution.stats.iterations for solution in together}) > 1
    for solution, measurement in zip(together, problem.measurements, strict=True):
        (alone,) = solver.solve([measurement])
        np.testing.assert_array_equal(solution.value, alone.value)
        assert solution.stats == alone.stats


def test_how_a_solve_ended_is_told(problem):
    def result(tolerance):
        (solution,) = Kaczmarz(problem.operators, weights(sweeps=2), tolerance=tolerance).solve(
            problem.measurements[:1]
        )
        assert solution.stats.iterations == len(solution.stats.residuals) == 2
        return solution.result

    assert result(0.0) is Result.FIXED_ITERATIONS
    assert result(1e-5) is Result.MAX_ITERATIONS


@pytest.mark.parametrize("row_order", ["sequential", "shuffled", "random"])
def test_images_do_not_depend_on_the_batch(make_problem, row_order):
    many = make_problem(5, n_frames=FRAMES_TOGETHER + 3)
    solver = Kaczmarz(many.operators, weights(), row_order)
    together = solver.solve(many.measurements)
    alone = [solver.solve([measurement])[0] for measurement in many.measurements]
    np.testing.assert_array_equal(values(together), values(alone))
    assert [solution.stats for solution in together] == [solution.stats for solution in alone]


@pytest.mark.parametrize("row_order", ["shuffled", "random"])
def test_seeds_make_random_orders_reproducible(problem, row_order):
    def images(seed):
        return values(
            Kaczmarz(problem.operators, weights(), row_order, seed=seed).solve(problem.measurements)
        )

    np.testing.assert_array_equal(images(4), images(4))
    assert np.abs(images(4) - images(5)).max() > SWEEPS


def test_shuffled_sweeps_visit_every_row_once_each_in_another_order():
    orders = row_orders(np.ones(30, np.float32), "shuffled", 5, 0)
    assert orders.shape == (5, 30)
    assert (np.sort(orders) == np.arange(30)).all()
    assert len({tuple(order) for order in orders}) == 5


def test_random_sweeps_draw_rows_by_their_squared_norm():
    energies = np.array([1, 0, 2, 5], np.float32)
    orders = row_orders(energies, "random", 4000, 0)
    assert orders.shape == (4000, 3)  # as many as there are rows that are not zero
    counts = np.bincount(orders.ravel(), minlength=4)
    share = energies / 8.0
    deviation = np.sqrt(12000 * share * (1 - share))
    assert np.all(np.abs(counts - 12000 * share) <= FIVE_SIGMA * deviation)


@pytest.mark.parametrize("row_weighting", ["none", "l2"])
@pytest.mark.parametrize("row_order", ["sequential", "random"])
def test_zero_rows_are_skipped(problem, row_order, row_weighting):
    def images(matrix, data):
        operators = with_matrix(problem.operators, matrix)
        measurements = [
            replace(measurement, y=y.astype(np.float32))
            for measurement, y in zip(problem.measurements, data, strict=True)
        ]
        return values(Kaczmarz(operators, weights(), row_order, row_weighting).solve(measurements))

    with_zeros = np.insert(problem.matrix, [0, 50, 120], 0.0, axis=0)
    data = np.insert(problem.data, [0, 50, 120], 7.0, axis=1)
    np.testing.assert_array_equal(images(with_zeros, data), images(problem.matrix, problem.data))


def test_a_number_of_voxels_that_fills_the_lanes_exactly_works(make_problem):
    full = make_problem(6, n_frames=1, shape=(LANES, 2))
    (solution,) = Kaczmarz(full.operators, weights(), "sequential").solve(full.measurements)
    image, _ = reference_sweeps(full.matrix, full.data[0], 0.5, [range(120)] * 3)
    np.testing.assert_allclose(solution.value, image, rtol=0, atol=SWEEPS)


def test_each_frame_has_the_weight_of_its_own_snr(problem):
    curve = SnrCurve((25.0, 35.0), (1.0, 0.01))
    together = Kaczmarz(problem.operators, weights(curve)).solve(problem.measurements)
    assert [solution.stats.weights_clamped for solution in together] == [True, False, True]
    for measurement, solution in zip(problem.measurements, together, strict=True):
        used = curve.at(measurement.snr_db)
        assert solution.stats.weights == {"lambda": used}
        (alone,) = Kaczmarz(problem.operators, weights(used)).solve([measurement])
        np.testing.assert_array_equal(solution.value, alone.value)


def test_settings_tell_how_the_rows_are_visited(problem):
    solver = Kaczmarz(problem.operators, weights(sweeps=4), "shuffled", "l2", seed=9, tolerance=0.1)
    assert solver.settings == {
        "iterations": 4,
        "tolerance": 0.1,
        "row_order": "shuffled",
        "row_weighting": "l2",
        "seed": 9,
    }


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            {"row_order": "backwards"},
            "row_order is 'backwards'; expected one of sequential, shuffled, random",
        ),
        ({"row_weighting": "l1"}, "row_weighting is 'l1'; expected one of none, l2"),
        ({"seed": -1}, "seed is -1; expected a non-negative integer"),
        ({"tolerance": -0.1}, "tolerance is -0.1; expected a non-negative number"),
    ],
)
def test_impossible_settings_are_refused(problem, setting, message):
    with pytest.raises(ConfigError, match=message):
        Kaczmarz(problem.operators, weights(), **setting)


def test_weights_of_another_method_are_refused(problem):
    other = MethodWeights({"tv": SnrCurve.constant(0.1)}, 10)
    with pytest.raises(ConfigError, match="the weights of art are"):
        Kaczmarz(problem.operators, other)


def test_values_that_are_not_finite_are_reported(problem):
    broken = replace(problem.measurements[0], y=np.full(120, np.nan, np.float32))
    with pytest.raises(NonFiniteError, match="iteration 1 gave NaN or infinity"):
        Kaczmarz(problem.operators, weights()).solve([broken])
