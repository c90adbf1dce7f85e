"""ADMM with hand-crafted priors: the convex problem it solves, its iterates, and the account it gives."""

from dataclasses import replace

import cvxpy
import numpy as np
import pytest

from engine.errors import ConfigError, PairingError
from engine.fixed_point.solution import Result
from engine.measurement.normalization import normalize
from engine.mpi.grid import Grid
from engine.operators.factorisation import make_operators
from engine.solvers.admm.hand_crafted import PROX_TOLERANCE, AdmmHybrid, AdmmL1, AdmmTv
from engine.solvers.regularization import MethodWeights, SnrCurve

CONVEX_TOLERANCE = 1e-4
"""Relative, of the image: single precision, and the interior-point solver (3e-5 seen)."""

SINGLE = 2e-5
"""Of the peak: single precision over some iterations, against double precision on all rows."""

BATCH_TOLERANCE = 1e-5
"""Relative, of the image: BLAS sums in another order when it multiplies more rows at once; 50 iterations."""


@pytest.fixture(scope="module")
def vessels(make_system_matrix):
    """Operators with singular values 25 to 0.5, and three piecewise constant frames at 20, 25 and 30 dB.

    Well enough conditioned that plain iterations reach the solution to many digits.
    """
    rng = np.random.default_rng(11)
    system_matrix = make_system_matrix(Grid((6, 5, 1), (0.012, 0.010, 0.002)), 40, (4, 16), 11)
    u, _ = np.linalg.qr(rng.standard_normal((80, 30)))
    v, _ = np.linalg.qr(rng.standard_normal((30, 30)))
    a = u * np.geomspace(100, 2, 30) @ v.T
    operators = make_operators(replace(system_matrix, rows=a[:40] + 1j * a[40:]))
    images = np.zeros((3, 5, 6))
    images[0, 1:3, 2:5] = 1
    images[1, 2:, 1:3] = 0.7
    images[1, 0, 4] = 1
    images[2, 1] = 1
    images[2, 2:4, 3] = 0.5
    clean = images.reshape(3, -1) @ operators.system_matrix.T.astype(np.float64)
    noise = rng.standard_normal(clean.shape)
    level = (
        np.linalg.norm(clean, axis=1) / np.linalg.norm(noise, axis=1) / 10 ** (np.array([20, 25, 30]) / 20)
    )
    rows = (clean + level[:, None] * noise) * operators.scale
    return operators, [normalize(frame, operators) for frame in rows]


def constants(iterations, **weights):
    return MethodWeights({name: SnrCurve.constant(value) for name, value in weights.items()}, iterations)


def convex_solution(operators, measurement, l1, tv):
    """Eq. (2) by an interior-point method: min l1 sum(x) + tv TV(x), x >= 0, ||A x - y|| <= epsilon."""
    _, ny, nx = operators.grid.volume_shape
    x = cvxpy.Variable((ny, nx), nonneg=True)
    down = cvxpy.vec(cvxpy.vstack([x[1:] - x[:-1], np.zeros((1, nx))]), order="C")
    right = cvxpy.vec(cvxpy.hstack([x[:, 1:] - x[:, :-1], np.zeros((ny, 1))]), order="C")
    lengths = cvxpy.norm(cvxpy.vstack([down, right]), 2, axis=0)
    misfit = operators.system_matrix.astype(np.float64) @ cvxpy.vec(x, order="C") - measurement.y
    problem = cvxpy.Problem(
        cvxpy.Minimize(l1 * cvxpy.sum(x) + tv * cvxpy.sum(lengths)),
        [cvxpy.norm(misfit) <= measurement.epsilon],
    )
    problem.solve(solver=cvxpy.CLARABEL)
    return x.value.reshape(-1)


def relative_distance(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("solver", "weights", "tolerance"),
    [
        (AdmmL1, {"l1": 0.1}, CONVEX_TOLERANCE),
        (AdmmTv, {"tv": 0.1}, PROX_TOLERANCE),
        (AdmmHybrid, {"l1": 0.03, "tv": 0.07}, PROX_TOLERANCE),
    ],
)
def test_long_runs_solve_the_convex_problem(vessels, solver, weights, tolerance) -> None:
    operators, measurements = vessels
    found = solver(operators, constants(1000, **weights), tolerance=1e-7).solve(measurements)
    images = []
    for solution, measurement in zip(found, measurements, strict=True):
        expected = convex_solution(operators, measurement, weights.get("l1", 0.0), weights.get("tv", 0.0))
        assert solution.value.dtype == np.float32
        assert relative_distance(solution.value, expected) < tolerance
        images.append(expected)
    # The frames and the priors matter: no image is near another frame's, or the start.
    assert relative_distance(images[0], images[1]) > 0.1
    assert relative_distance(measurements[0].start, images[0]) > 0.05


def test_the_first_iterations_follow_the_equations(problem) -> None:
    """Eqs. (5)-(10) in double precision on all rows, from (x_LS, 0, 0)."""
    weight, a = 0.02, problem.matrix
    found = AdmmL1(problem.operators, constants(3, l1=weight)).solve(problem.measurements)
    stacked = np.vstack([a, np.eye(a.shape[1])])
    for solution, measurement, y in zip(found, problem.measurements, problem.data, strict=True):
        x, d0, d1 = measurement.start.astype(np.float64), np.zeros(len(a)), np.zeros(a.shape[1])
        changes = []
        for _ in range(3):
            before = np.concatenate([x, d0, d1])
            offset = a @ x - d0 - y
            z0 = y + offset * min(1.0, measurement.epsilon / np.linalg.norm(offset))
            z1 = np.maximum(x - d1 - weight, 0)
            x = np.linalg.lstsq(stacked, np.concatenate([z0 + d0, z1 + d1]), rcond=None)[0]
            d0, d1 = d0 + z0 - a @ x, d1 + z1 - x
            after = np.concatenate([x, d0, d1])
            changes.append(np.linalg.norm(after - before) / np.linalg.norm(after))
        np.testing.assert_allclose(solution.value, np.maximum(x, 0), atol=SINGLE * x.max())
        np.testing.assert_allclose(solution.stats.residuals, changes, rtol=1e-3)
        assert solution.result is Result.MAX_ITERATIONS


@pytest.mark.parametrize(
    ("solver", "names"), [(AdmmL1, ["l1"]), (AdmmTv, ["tv"]), (AdmmHybrid, ["l1", "tv"])]
)
def test_every_frame_has_the_weights_of_its_snr(vessels, solver, names) -> None:
    """Frames solved together, each with its own weights, are those solved alone with these as constants."""
    operators, measurements = vessels
    curves = {name: SnrCurve((19.0, 27.0), (0.2, 0.02)) for name in names}
    together = solver(operators, MethodWeights(curves, 50)).solve(measurements)
    seen = []
    for solution, measurement in zip(together, measurements, strict=True):
        expected = {name: curve.at(measurement.snr_db) for name, curve in curves.items()}
        assert solution.stats.weights == expected
        assert solution.stats.weights_clamped == (not 19 <= measurement.snr_db <= 27)
        (alone,) = solver(operators, constants(50, **expected)).solve([measurement])
        assert not alone.stats.weights_clamped
        assert relative_distance(solution.value, alone.value) < BATCH_TOLERANCE
        seen.append(solution.stats.weights_clamped)
        other = solver(operators, constants(50, **dict.fromkeys(names, 0.5))).solve([measurement])[0]
        assert relative_distance(other.value, alone.value) > 1e-3
    assert seen == [False, False, True]


def test_the_result_says_whether_the_tolerance_was_met(vessels) -> None:
    """Each frame ends at the first residual within the tolerance, or at the limit and says so."""
    operators, measurements = vessels
    weights = constants(60, l1=0.1)
    full = AdmmL1(operators, weights, tolerance=0).solve(measurements)
    for solution in full:
        assert (solution.result, solution.stats.iterations) == (Result.MAX_ITERATIONS, 60)
    lowest = [min(solution.stats.residuals) for solution in full]
    tolerance = (min(lowest) + max(lowest)) / 2
    results = set()
    for solution, reference in zip(
        AdmmL1(operators, weights, tolerance=tolerance).solve(measurements), full, strict=True
    ):
        history = reference.stats.residuals
        met = [k for k, residual in enumerate(history, 1) if residual <= tolerance]
        assert solution.stats.residuals == history[: met[0] if met else 60]
        assert solution.stats.iterations == len(solution.stats.residuals)
        assert solution.result is (Result.CONVERGED if met else Result.MAX_ITERATIONS)
        results.add(solution.result)
    assert len(results) == 2


def test_settings_are_those_in_effect(vessels) -> None:
    solver = AdmmTv(vessels[0], constants(7, tv=0.1), tolerance=1e-3)
    assert solver.method == "admm-tv"
    assert solver.settings == {"iterations": 7, "tolerance": 1e-3}


@pytest.mark.parametrize("names", [("tv",), (), ("l1", "tv")])
def test_weights_of_another_method_are_refused(vessels, names) -> None:
    with pytest.raises(ConfigError, match="weights of admm-l1 are"):
        AdmmL1(vessels[0], constants(5, **dict.fromkeys(names, 0.1)))


@pytest.mark.parametrize("tolerance", [-1e-4, np.nan, np.inf])
def test_impossible_tolerances_are_refused(vessels, tolerance) -> None:
    with pytest.raises(ConfigError, match="tolerance is"):
        AdmmL1(vessels[0], constants(5, l1=0.1), tolerance=tolerance)


def test_an_unknown_noise_level_is_refused(vessels) -> None:
    operators, measurements = vessels
    unknown = replace(measurements[1], sigma=None, epsilon=None)
    with pytest.raises(PairingError, match="give sigma"):
        AdmmL1(operators, constants(5, l1=0.1)).solve([measurements[0], unknown])


def test_more_than_one_slice_is_refused_at_once(make_system_matrix) -> None:
    operators = make_operators(make_system_matrix(Grid((3, 2, 2), (0.01, 0.01, 0.01)), 20, (4, 6), 1))
    with pytest.raises(PairingError, match="2 slices"):
        AdmmTv(operators, constants(5, tv=0.1))
