"""A solve that is ended in time gives what the same solve had by then."""

import types
from dataclasses import replace

import numpy as np
import pytest

import engine.fixed_point.solve
from engine.calibration.calibrate import make_operators
from engine.errors import ConfigError
from engine.fixed_point.solution import Result
from engine.fixed_point.solve import FixedPointConfig, FixedPointSolver
from engine.measurement.normalization import normalize
from engine.reconstruction.reconstructor import Reconstructor
from engine.solvers.deq.equilibrium import Equilibrium
from engine.solvers.deq.equilibrium_sequence import EquilibriumSequence
from engine.solvers.least_squares import LeastSquares

CONFIG = FixedPointConfig(memory=0, beta=0.3, tolerance=0.0, max_iterations=20)
"""Slow on purpose: no residual is zero within the limit."""


class Clock:
    """A clock that an evaluation moves on by one second."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        fake = types.SimpleNamespace(perf_counter=lambda: self.now)
        monkeypatch.setattr(engine.fixed_point.solve, "time", fake)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


class Step:
    """A contraction in four dimensions."""

    def __init__(self, clock):
        self._clock = clock
        self._matrix = np.random.default_rng(1).uniform(-0.2, 0.2, (4, 4))

    def __call__(self, z, out):
        out[...] = np.cos(z @ self._matrix)
        self._clock.now += 1.0

    def keep(self, frames):
        """Nothing differs between frames."""


@pytest.mark.parametrize(
    ("seconds", "evaluations"), [(-5.0, 1), (0.0, 1), (1.9, 1), (2.0, 2), (2.1, 2), (7.5, 7), (100.0, 20)]
)
def test_another_evaluation_is_made_only_if_it_will_be_over_in_time(clock, seconds, evaluations):
    starts = np.ones((2, 4))
    found = FixedPointSolver(CONFIG).solve(Step(clock), starts, clock.now + seconds)
    limited = FixedPointSolver(replace(CONFIG, max_iterations=evaluations)).solve(Step(clock), starts)
    for cut, short in zip(found, limited, strict=True):
        np.testing.assert_array_equal(cut.value, short.value)
        assert cut.stats == short.stats
        assert cut.result is (Result.MAX_ITERATIONS if evaluations == 20 else Result.DEADLINE)
        assert not cut.result.is_success


def test_what_converged_before_the_deadline_has_converged(clock):
    config = replace(CONFIG, beta=1.0, tolerance=1e-6)
    (found,) = FixedPointSolver(config).solve(Step(clock), np.ones((1, 4)), clock.now + 15.5)
    assert found.result is Result.CONVERGED
    assert found.stats.iterations < 15


def prior(v, _noise):
    return np.maximum(v, 0)


def consistency(v, y, mask, _epsilon):
    return 0.5 * (v + y) * mask


@pytest.mark.parametrize("kind", [Equilibrium, EquilibriumSequence])
def test_the_methods_pass_the_deadline_on(small_system_matrix, kind):
    operators = make_operators(small_system_matrix)
    rows = 5 * np.random.default_rng(3).standard_normal(operators.n_rows).astype(np.float32)
    rows += 50 * operators.system_matrix @ np.ones(operators.n_voxels, np.float32)
    reconstructor = Reconstructor(kind(operators, prior, consistency, CONFIG))
    one = kind(operators, prior, consistency, replace(CONFIG, max_iterations=1))
    found = reconstructor.reconstruct(rows, deadline=0.0)
    (expected,) = one.solve([normalize(rows, operators)])
    assert found.report.result is Result.DEADLINE
    assert found.report.iterations == 1
    np.testing.assert_array_equal(found.solution.value, expected.value)
    assert reconstructor.reconstruct(rows).report.result is Result.MAX_ITERATIONS


def test_a_direct_method_cannot_have_a_deadline(small_system_matrix):
    operators = make_operators(small_system_matrix)
    reconstructor = Reconstructor(LeastSquares(operators))
    assert not reconstructor.is_anytime
    with pytest.raises(ConfigError, match="least-squares cannot give an image at a deadline"):
        reconstructor.reconstruct(np.ones(operators.n_rows, np.float32), deadline=0.0)
