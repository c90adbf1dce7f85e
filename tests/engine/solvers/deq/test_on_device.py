"""Whole solves with the states on a device give the images of `Equilibrium`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from engine.errors import BundleError, NonFiniteError, PairingError, ProviderError
from engine.fixed_point.solution import Result
from engine.fixed_point.solve import FixedPointConfig
from engine.networks.bundle import load_bundle
from engine.networks.sessions import OnnxConsistency, OnnxPrior
from engine.reconstruction.method_settings import MethodSettings
from engine.reconstruction.methods import open_method
from engine.solvers.deq.equilibrium import Equilibrium
from engine.solvers.deq.on_device import ResidentEquilibrium

FIXTURES = Path(__file__).parents[3] / "fixtures"

IMAGE_TOLERANCE = 1e-3
"""Relative to the peak. Anderson weights amplify float32 rounding while a solve has not converged: 3e-4 seen,
and as much between two solves of `Equilibrium` whose data differ by 1e-7."""

STEADY_TOLERANCE = 1e-4
"""Relative to the peak, where the iteration does not amplify rounding: plain steps, a few evaluations."""

RESIDUAL_TOLERANCE = 5e-3
"""Relative: over-relaxed steps multiply rounding, 1.5e-4 seen, 2.5e-3 with sums whose errors were four times
as large. A step that was not rejected changes a residual by a factor."""

ITERATION_TOLERANCE = 1
"""Rounding can move a residual across the tolerance by one evaluation."""

LOOSE = 0.05
"""Reached in some ten evaluations. A tighter one takes a hundred here, after which rounding decides which of
the many fixed points of clipping and projection a solve ends at: 3e-2 between solves of data 1e-7 apart."""

CONFIGS = {
    "default": FixedPointConfig(),
    "to the tolerance": FixedPointConfig(tolerance=LOOSE, max_iterations=100),
    "plain": FixedPointConfig(memory=0, tolerance=0.0, max_iterations=10),
    "damped": FixedPointConfig(beta=0.7, tolerance=0.0, max_iterations=8),
    "short memory": FixedPointConfig(memory=2, tolerance=0.0, max_iterations=12),
    "one evaluation": FixedPointConfig(max_iterations=1),
}


def pair(bundle, operators, config, provider="cpu"):
    reference = Equilibrium(
        operators, OnnxPrior(bundle), OnnxConsistency(bundle), config, bundle.manifest.dual_start
    )
    return reference, ResidentEquilibrium.of_bundle(bundle, operators, config, provider)


def close(found, expected, tolerance) -> None:
    assert found.value.dtype == expected.value.dtype == np.float32
    assert found.value.shape == expected.value.shape
    assert found.value.min() >= 0
    np.testing.assert_allclose(found.value, expected.value, rtol=0, atol=tolerance * expected.value.max())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dual_start", [0.0, 20.0])
def test_images_and_iterations_are_those_of_the_other_solver(
    runnable_bundle, problem, name, dual_start, provider
) -> None:
    bundle = runnable_bundle(problem.operators)
    started = replace(bundle, manifest=replace(bundle.manifest, dual_start=dual_start))
    reference, resident = pair(started, problem.operators, CONFIGS[name], provider)
    assert resident.settings == reference.settings
    assert resident.operators is problem.operators
    tolerance = STEADY_TOLERANCE if name in {"plain", "one evaluation"} else IMAGE_TOLERANCE
    solutions = resident.solve(problem.measurements)
    for found, expected in zip(solutions, reference.solve(problem.measurements), strict=True):
        close(found, expected, tolerance)
        assert found.result is expected.result
        assert abs(found.stats.iterations - expected.stats.iterations) <= ITERATION_TOLERANCE
        assert found.stats.iterations == len(found.stats.residuals)


def test_it_stops_at_the_tolerance(step_bundle, problem) -> None:
    _, resident = pair(step_bundle, problem.operators, CONFIGS["to the tolerance"])
    for solution in resident.solve(problem.measurements):
        assert solution.result is Result.CONVERGED
        assert 1 < solution.stats.iterations < CONFIGS["to the tolerance"].max_iterations
        assert (
            solution.stats.residuals[-1]
            <= CONFIGS["to the tolerance"].tolerance
            < solution.stats.residuals[-2]
        )


def test_rejected_steps_go_back_as_they_do_there(runnable_bundle, problem, provider) -> None:
    """beta = 4 over-relaxes: the safeguard has to act."""
    config = FixedPointConfig(memory=0, beta=4.0, tolerance=0.0, max_iterations=25)
    reference, resident = pair(runnable_bundle(problem.operators), problem.operators, config, provider)
    solutions = reference.solve(problem.measurements)
    assert sum(solution.stats.restarts for solution in solutions) > 0
    for found, expected in zip(resident.solve(problem.measurements), solutions, strict=True):
        assert found.stats.restarts == expected.stats.restarts
        np.testing.assert_allclose(found.stats.residuals, expected.stats.residuals, rtol=RESIDUAL_TOLERANCE)
        close(found, expected, STEADY_TOLERANCE)


def test_a_frame_does_not_depend_on_those_before_it(step_bundle, problem) -> None:
    _, resident = pair(step_bundle, problem.operators, FixedPointConfig())
    together = resident.solve(problem.measurements)
    for measurement, solution in zip(problem.measurements, together, strict=True):
        _, fresh = pair(step_bundle, problem.operators, FixedPointConfig())
        (alone,) = fresh.solve([measurement])
        np.testing.assert_array_equal(alone.value, solution.value)


def test_a_damaged_frame_raises_and_the_next_one_is_solved(runnable_bundle, problem, provider) -> None:
    operators = problem.operators
    _, resident = pair(runnable_bundle(operators), operators, FixedPointConfig(), provider)
    good = problem.measurements[0]
    (before,) = resident.solve([good])
    with pytest.raises(NonFiniteError, match="evaluation 1 of the fixed-point map"):
        resident.solve([replace(good, y=good.y * np.float32(np.nan))])
    (after,) = resident.solve([good])
    np.testing.assert_array_equal(after.value, before.value)


def test_a_measurement_without_noise_level_is_refused(step_bundle, problem) -> None:
    _, resident = pair(step_bundle, problem.operators, FixedPointConfig())
    with pytest.raises(PairingError, match="give sigma"):
        resident.solve([replace(problem.measurements[0], epsilon=None)])


def test_a_bundle_without_step_is_refused(problem) -> None:
    with pytest.raises(BundleError, match=r"has no step network; .*deqmpi-export add-step .*bundle"):
        ResidentEquilibrium.of_bundle(
            load_bundle(FIXTURES / "bundle"), problem.operators, FixedPointConfig(), "cpu"
        )


def test_a_bundle_of_another_method_is_refused(problem) -> None:
    other = load_bundle(FIXTURES / "image-bundles" / "deq-ball")
    with pytest.raises(BundleError, match="is of method deq-ball; expected deq"):
        ResidentEquilibrium.of_bundle(other, problem.operators, FixedPointConfig(), "cpu")


@pytest.mark.parametrize("provider", ["cuda", "tensorrt-native"])
def test_the_provider_chooses_the_solver(problem, monkeypatch, provider) -> None:
    """With the CPU nothing changes; on a GPU and with a step the states stay on the device."""
    with_step = MethodSettings(model=FIXTURES / "step-bundle")
    assert isinstance(open_method("deq", problem.operators, with_step), Equilibrium)
    opened = []
    monkeypatch.setattr(ResidentEquilibrium, "of_bundle", lambda *arguments: opened.append(arguments))
    open_method("deq", problem.operators, replace(with_step, provider=provider, max_iterations=7))
    ((bundle, operators, config, chosen),) = opened
    assert (bundle.path, operators, chosen) == (FIXTURES / "step-bundle", problem.operators, provider)
    assert config == FixedPointConfig(max_iterations=7)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(),
    reason="this ONNX Runtime has the CUDA provider",
)
@pytest.mark.parametrize("name", ["bundle", "step-bundle"])
def test_cuda_is_an_error_where_there_is_none(problem, name) -> None:
    with pytest.raises(ProviderError, match="cuda is not in this build of ONNX Runtime"):
        open_method("deq", problem.operators, MethodSettings(model=FIXTURES / name, provider="cuda"))
