import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import cg

from engine.errors import ConfigError
from engine.fixed_point.solution import Result
from engine.solvers.regularization import MethodWeights, SnrCurve
from engine.solvers.tikhonov import CgTikhonov, conjugate_gradients

SAME_ITERATES = (
    1e-9  # float64 in two bases; a few iterations amplify rounding by the condition number at most
)
SMALL_RESIDUAL = 1e-13  # near the rounding of float64
SOLVED = 1e-6  # SMALL_RESIDUAL times the largest condition number of the random problems, with room
SINGLE_PRECISION = 2e-5  # images of order one from factors stored in float32, of a few hundred sums
ONE_ROUNDING = 2e-7  # of an image of order one to float32
RESIDUAL_ROUNDING = 1e-10  # recursive against true residual, float64


def weights(damping=0.5, iterations=200):
    curve = damping if isinstance(damping, SnrCurve) else SnrCurve.constant(damping)
    return MethodWeights({"lambda": curve}, iterations)


def normal_system(matrix, y, damping):
    return matrix.T @ matrix + damping * np.eye(matrix.shape[1]), matrix.T @ y


def iterate(matrix, data, damping, iterations, tolerance=0.0):
    """The images (F, N) of our iteration, through the factors of the matrix in double precision."""
    left, s, right = np.linalg.svd(matrix, full_matrices=False)
    damping = np.broadcast_to(damping, len(data))
    coordinates, histories = conjugate_gradients(
        s**2 + damping[:, None], s * (data @ left), iterations, tolerance
    )
    return coordinates @ right, histories


@pytest.mark.parametrize("iterations", [1, 2, 3, 5])
def test_iterates_are_those_of_scipy(problem, iterations):
    damping = (0.3, 0.1, 0.03)
    images, _ = iterate(problem.matrix, problem.data, damping, iterations)
    for image, y, frame_damping in zip(images, problem.data, damping, strict=True):
        system, right_side = normal_system(problem.matrix, y, frame_damping)
        theirs, info = cg(system, right_side, rtol=0.0, maxiter=iterations)
        assert info == iterations
        np.testing.assert_allclose(image, theirs, rtol=0, atol=SAME_ITERATES * np.abs(theirs).max())


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_rows=st.integers(6, 40),
    n_voxels=st.integers(1, 6),
    logarithm=st.floats(-3, 2),
)
def test_converged_answer_is_the_direct_solution_of_any_problem(seed, n_rows, n_voxels, logarithm):
    rng = np.random.default_rng(seed)
    matrix, data = rng.standard_normal((n_rows, n_voxels)), rng.standard_normal((2, n_rows))
    damping = 10.0**logarithm
    images, _ = iterate(matrix, data, damping, 20 * n_voxels, tolerance=SMALL_RESIDUAL)
    for image, y in zip(images, data, strict=True):
        direct = np.linalg.solve(*normal_system(matrix, y, damping))
        np.testing.assert_allclose(image, direct, rtol=0, atol=SOLVED * np.abs(direct).max())


def test_reported_residual_is_the_true_one(problem):
    images, histories = iterate(problem.matrix, problem.data, 0.1, 4)
    for image, y, history in zip(images, problem.data, histories, strict=True):
        system, right_side = normal_system(problem.matrix, y, 0.1)
        true = np.linalg.norm(right_side - system @ image) / np.linalg.norm(right_side)
        assert len(history) == 4
        assert history[-1] == pytest.approx(true, rel=RESIDUAL_ROUNDING, abs=RESIDUAL_ROUNDING)


def test_a_frame_that_has_converged_no_longer_changes():
    # The first frame's matrix is a multiple of the identity: one iteration solves it.
    eigenvalues = np.stack([np.full(8, 3.0), np.linspace(0.01, 5, 8)])
    right_sides = np.random.default_rng(0).standard_normal((2, 8))
    solutions, histories = conjugate_gradients(eigenvalues, right_sides, 30, 1e-12)
    alone, _ = conjugate_gradients(eigenvalues[:1], right_sides[:1], 1, 1e-12)
    assert len(histories[0]) == 1
    assert 8 <= len(histories[1]) <= 30
    np.testing.assert_array_equal(solutions[0], alone[0])


def test_a_right_side_of_zero_gives_zero():
    solutions, histories = conjugate_gradients(np.ones((2, 3)), np.array([[0.0] * 3, [1.0] * 3]), 5, 0.0)
    np.testing.assert_array_equal(solutions, [[0] * 3, [1] * 3])
    assert histories == [[0.0], [0.0]]


def test_solver_gives_the_non_negative_part_of_the_direct_solution(problem):
    solver = CgTikhonov(problem.operators, weights(0.2), tolerance=1e-8)
    for solution, y in zip(solver.solve(problem.measurements), problem.data, strict=True):
        direct = np.linalg.solve(*normal_system(problem.matrix, y, 0.2))
        assert direct.min() < 0  # so the clipping is seen
        np.testing.assert_allclose(solution.value, np.maximum(direct, 0), rtol=0, atol=SINGLE_PRECISION)
        assert solution.value.dtype == np.float32
        assert solution.result is Result.CONVERGED
        assert solution.stats.residuals[-1] <= 1e-8


def test_iteration_limit_is_reported(problem):
    for solution in CgTikhonov(problem.operators, weights(0.01, iterations=2)).solve(problem.measurements):
        assert solution.result is Result.MAX_ITERATIONS
        assert solution.stats.iterations == len(solution.stats.residuals) == 2


def test_each_frame_has_the_weight_of_its_own_snr(problem):
    curve = SnrCurve((25.0, 35.0), (1.0, 0.01))
    together = CgTikhonov(problem.operators, weights(curve)).solve(problem.measurements)
    assert [solution.stats.weights_clamped for solution in together] == [True, False, True]
    for measurement, solution in zip(problem.measurements, together, strict=True):
        used = curve.at(measurement.snr_db)
        assert solution.stats.weights == {"lambda": used}
        (alone,) = CgTikhonov(problem.operators, weights(used)).solve([measurement])
        np.testing.assert_allclose(solution.value, alone.value, rtol=0, atol=ONE_ROUNDING)
        assert solution.stats.residuals == pytest.approx(alone.stats.residuals, rel=SAME_ITERATES)


def test_settings_name_limit_and_tolerance(problem):
    solver = CgTikhonov(problem.operators, weights(iterations=7), tolerance=0.25)
    assert solver.settings == {"iterations": 7, "tolerance": 0.25}


@pytest.mark.parametrize("tolerance", [-1e-3, float("nan"), float("inf")])
def test_impossible_tolerance_is_refused(problem, tolerance):
    with pytest.raises(ConfigError, match="tolerance is"):
        CgTikhonov(problem.operators, weights(), tolerance)


def test_weights_of_another_method_are_refused(problem):
    other = MethodWeights({"l1": SnrCurve.constant(0.1)}, 10)
    with pytest.raises(ConfigError, match="the weights of cg-tikhonov are"):
        CgTikhonov(problem.operators, other)
