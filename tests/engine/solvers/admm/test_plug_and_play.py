"""Plug-and-play with denoisers whose fixed point has a closed form, and with a network of a bundle."""

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import brentq

from engine.errors import ConfigError, NonFiniteError
from engine.fixed_point.solution import Result
from engine.networks.bundle import load_bundle
from engine.networks.sessions import OnnxPrior
from engine.solvers.admm.plug_and_play import PlugAndPlay
from engine.solvers.regularization import MethodWeights, SnrCurve

BUNDLE = Path(__file__).parents[3] / "fixtures" / "image-bundles" / "pp-mpi"

FIXED_POINT_TOLERANCE = 5e-5
"""Relative, of the image: a residual of 1e-6 over one less the rate of the slowest frame (1.2e-5 seen)."""

ROUNDING = 1e-4
"""Relative to the peak: float32 sums in another order, 1e-7 each, over the iterations (6e-5 seen with sums
whose errors were four times as large)."""


def scales(value, iterations=150):
    return MethodWeights({"scale": SnrCurve.constant(value)}, iterations)


def tikhonov_at_the_noise_level(problem, frame, target):
    """The image nearest to a constant `target` with ||A x - y|| = epsilon: Tikhonov's, by its multiplier."""
    a, y, measurement = problem.matrix, problem.data[frame], problem.measurements[frame]
    towards = np.full(a.shape[1], target)

    def image(log_weight):
        weight = np.exp(log_weight)
        return np.linalg.solve(a.T @ a + weight * np.eye(len(towards)), a.T @ y + weight * towards)

    def misfit(log_weight):
        return np.linalg.norm(a @ image(log_weight) - y) - measurement.epsilon

    return image(brentq(misfit, -20, 20))


@pytest.mark.parametrize(("offset", "scale"), [(0.0, 1.0), (0.0, 2.5), (0.1, 1.0), (0.1, 3.0)])
def test_a_linear_denoiser_gives_tikhonov_at_the_noise_level(problem, offset, scale) -> None:
    """D(v) = v / 2 + b is the proximal map of ||x - 2 b||^2 / 2, so the fixed point is nearest to 2 b scale.

    A scale multiplies the image to which it is drawn, and nothing else.
    """

    def denoiser(v, _noise):
        return 0.5 * v + offset

    solver = PlugAndPlay(problem.operators, denoiser, scales(scale, 4000), tolerance=1e-6)
    for frame, solution in enumerate(solver.solve(problem.measurements)):
        expected = np.maximum(tikhonov_at_the_noise_level(problem, frame, 2 * offset * scale), 0)
        distance = np.linalg.norm(solution.value - expected) / np.linalg.norm(expected)
        assert solution.result is Result.CONVERGED
        assert distance < FIXED_POINT_TOLERANCE
        assert solution.stats.weights == {"scale": scale}


def test_every_frame_has_the_scale_of_its_snr(problem) -> None:
    """The denoiser sees v / scale of each frame and its answer is scaled back."""
    curve = SnrCurve((10.0, 50.0), (4.0, 0.25))
    seen = []

    def denoiser(v, _noise):
        seen.append(v.copy())
        return np.tanh(v)

    measurements = problem.measurements
    PlugAndPlay(problem.operators, denoiser, MethodWeights({"scale": curve}, 1)).solve(measurements)
    expected = [curve.at(measurement.snr_db) for measurement in measurements]
    assert len(set(np.round(expected, 2))) == 3
    for v, measurement, scale in zip(seen[0], measurements, expected, strict=True):
        assert v.dtype == np.float32
        np.testing.assert_allclose(scale * v.reshape(-1), measurement.start, rtol=1e-5)

    found = PlugAndPlay(problem.operators, denoiser, MethodWeights({"scale": curve}, 20)).solve(measurements)
    for solution, measurement, scale in zip(found, measurements, expected, strict=True):
        assert solution.stats.weights == {"scale": scale}
        (alone,) = PlugAndPlay(
            problem.operators, lambda v, _noise, s=scale: s * np.tanh(v / s), scales(1.0, 20)
        ).solve([measurement])
        np.testing.assert_allclose(solution.value, alone.value, atol=ROUNDING * alone.value.max())


def test_a_network_of_a_bundle_serves(problem) -> None:
    """The bundle's network clips at zero, which numpy can do as well."""
    prior = OnnxPrior(load_bundle(BUNDLE))
    found = PlugAndPlay(problem.operators, prior, scales(1.5)).solve(problem.measurements)
    clipping = PlugAndPlay(problem.operators, lambda v, _noise: np.maximum(v, 0), scales(1.0))
    clip = clipping.solve(problem.measurements)
    for solution, expected, measurement in zip(found, clip, problem.measurements, strict=True):
        np.testing.assert_allclose(solution.value, expected.value, atol=ROUNDING * expected.value.max())
        assert np.linalg.norm(solution.value - np.maximum(measurement.start, 0)) > 1e-3


def test_a_denoiser_that_gives_nan_is_reported(problem) -> None:
    solver = PlugAndPlay(problem.operators, lambda v, _noise: np.full_like(v, np.nan), scales(1.0))
    with pytest.raises(NonFiniteError, match="iteration 1"):
        solver.solve(problem.measurements)


def test_weights_of_another_method_are_refused(problem) -> None:
    with pytest.raises(ConfigError, match="weights of pp-mpi are"):
        PlugAndPlay(problem.operators, lambda v, _noise: v, MethodWeights({"l1": SnrCurve.constant(1.0)}, 5))
