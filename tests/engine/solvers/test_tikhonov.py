"""Tikhonov regularisation against direct solutions of the normal equations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.fixed_point.solution import Result
from engine.solvers.regularization import MethodWeights, SnrCurve
from engine.solvers.tikhonov import Tikhonov

SINGLE_PRECISION = 5e-5
"""Relative to the peak: factors stored in single precision, of a few hundred sums (1e-5 seen)."""

ONE_ROUNDING = 2e-7
"""Relative to the peak: one rounding of an image to single precision."""


def weights(damping=0.5):
    curve = damping if isinstance(damping, SnrCurve) else SnrCurve.constant(damping)
    return MethodWeights({"lambda": curve}, 1)


def direct_solution(matrix, y, damping):
    return np.linalg.solve(matrix.T @ matrix + damping * np.eye(matrix.shape[1]), matrix.T @ y)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), logarithm=st.floats(-1.5, 2))
def test_images_are_the_non_negative_part_of_the_direct_solution(make_problem, seed, logarithm):
    problem, damping = make_problem(seed), 10.0**logarithm
    solutions = Tikhonov(problem.operators, weights(damping)).solve(problem.measurements)
    for solution, y in zip(solutions, problem.data, strict=True):
        direct = direct_solution(problem.matrix, y, damping)
        tolerance = SINGLE_PRECISION * np.abs(direct).max() / min(damping, 1.0)
        np.testing.assert_allclose(solution.value, np.maximum(direct, 0), rtol=0, atol=tolerance)
        assert solution.value.dtype == np.float32
        assert solution.result is Result.DIRECT
        assert solution.stats.iterations == 0


def test_negative_values_are_there_to_be_clipped(problem):
    for solution, y in zip(
        Tikhonov(problem.operators, weights(0.2)).solve(problem.measurements), problem.data, strict=True
    ):
        assert direct_solution(problem.matrix, y, 0.2).min() < 0
        assert solution.value.min() == 0


def test_each_frame_has_the_weight_of_its_own_snr(problem):
    curve = SnrCurve((25.0, 35.0), (1.0, 0.01))
    together = Tikhonov(problem.operators, weights(curve)).solve(problem.measurements)
    assert [solution.stats.weights_clamped for solution in together] == [True, False, True]
    for measurement, solution in zip(problem.measurements, together, strict=True):
        used = curve.at(measurement.snr_db)
        assert solution.stats.weights == {"lambda": used}
        (alone,) = Tikhonov(problem.operators, weights(used)).solve([measurement])
        peak = solution.value.max()
        np.testing.assert_allclose(solution.value, alone.value, rtol=0, atol=ONE_ROUNDING * peak)


def test_weights_of_another_method_are_refused(problem):
    other = MethodWeights({"l1": SnrCurve.constant(0.1)}, 10)
    with pytest.raises(ConfigError, match=r"tikhonov .*l1.*lambda"):
        Tikhonov(problem.operators, other)
