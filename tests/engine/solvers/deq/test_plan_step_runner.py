"""The step as a TensorRT plan: what is refused before the first frame, and what crosses the bus afterwards.

That it computes what the other runners do stands in `test_device_step.py` and `test_on_device.py`.
"""

import gc
from dataclasses import replace

import numpy as np
import pytest

from engine.errors import BundleError, ConfigError, DeviceError, PairingError
from engine.fixed_point.solve import FixedPointConfig
from engine.fixed_point.solve_in_slots import START_SLOT
from engine.networks.axis_ranges import DEFAULT_SLOTS
from engine.operators.factorisation import make_operators
from engine.reconstruction.method_settings import MethodSettings
from engine.reconstruction.methods import open_method
from engine.solvers.deq.device_step import DeviceStep
from engine.solvers.deq.on_device import ResidentEquilibrium
from engine.solvers.deq.plan_step_runner import PlanStepRunner

N_SLOTS = 5
NUMBER_BYTES = 4


@pytest.fixture(scope="module")
def operators(small_system_matrix):
    return make_operators(small_system_matrix)


@pytest.fixture
def settings(planned_bundle, operators):
    """Of `engine recon --provider tensorrt-native` with a bundle that has a step and its plan."""
    return MethodSettings(model=planned_bundle(operators).path, provider="tensorrt-native")


def test_a_method_on_tensorrt_runs_the_plan_of_the_step(settings, operators) -> None:
    assert isinstance(open_method("deq", operators, settings), ResidentEquilibrium)


def test_an_evaluation_exchanges_a_few_numbers_and_no_state(planned_bundle, operators, cuda) -> None:
    step = DeviceStep(PlanStepRunner(planned_bundle(operators), operators, N_SLOTS), operators)
    step.set_measurement(np.ones(operators.n_rows), 0.5)
    step.start(np.ones(operators.n_voxels, np.float32))
    step.evaluate(np.eye(N_SLOTS)[START_SLOT], 0.3, 1)
    cuda.traffic.clear()
    step.evaluate(np.eye(N_SLOTS)[1], 0.3, 2)
    crossed = [(kind, size // NUMBER_BYTES) for kind, size in cuda.traffic if kind != "across"]
    assert crossed == [("in", 2 * N_SLOTS), ("out", N_SLOTS + 2)]


def test_all_memory_is_had_from_the_start_and_freed_at_the_end(planned_bundle, operators, cuda) -> None:
    step = DeviceStep(PlanStepRunner(planned_bundle(operators), operators, N_SLOTS), operators)
    step.set_measurement(np.ones(operators.n_rows), 0.5)
    step.start(np.ones(operators.n_voxels, np.float32))
    step.evaluate(np.eye(N_SLOTS)[START_SLOT], 0.0, 1)
    used = set(cuda.memory)
    for slot in range(2, N_SLOTS):
        step.evaluate(np.eye(N_SLOTS)[START_SLOT], 0.0, slot)
    assert set(cuda.memory) == used
    del step
    gc.collect()
    assert not cuda.memory


def test_a_step_without_plan_is_not_run_in_another_way(settings, operators) -> None:
    (settings.model / "step.plan").unlink()
    with pytest.raises(BundleError, match=r"step\.plan is missing.*tensorrt BUNDLE --operators"):
        open_method("deq", operators, settings)


def test_a_plan_for_other_operators_is_refused(planned_bundle, operators, make_problem) -> None:
    bundle = planned_bundle(make_problem(1, n_rows=50).operators)
    with pytest.raises(PairingError, match=r"axis rows of input .* has length 120 here; .*for 100 to 100"):
        PlanStepRunner(bundle, operators, N_SLOTS)


def test_more_states_than_the_plan_was_built_for_are_refused(planned_bundle, operators) -> None:
    config = FixedPointConfig(memory=DEFAULT_SLOTS.maximum - 1)  # two slots more than pairs
    with pytest.raises(PairingError, match=r"axis slots .* length 19 here; .*for 2 to 18; .*--axis slots=19"):
        ResidentEquilibrium.of_bundle(planned_bundle(operators), operators, config, "tensorrt-native")


def test_a_plan_with_outputs_of_another_shape_is_refused(
    planned_bundle, operators, make_engine, install_tensorrt
) -> None:
    bundle = planned_bundle(operators)
    network = bundle.manifest.networks["step"]
    indices = ("voxel_grid", "row_places", "selected_places")
    outputs = dict.fromkeys(network.outputs, lambda _shapes: (4, 7))
    engine = make_engine(dict, tuple(network.inputs), outputs, dict.fromkeys(indices, "int64"))
    install_tensorrt(engine)
    with pytest.raises(BundleError, match=r"'report': \(4, 7\).*expected .*'report': \(1, 7\)"):
        PlanStepRunner(bundle, operators, N_SLOTS)


def test_a_gpu_that_fails_gives_no_image(planned_bundle, problem, cuda) -> None:
    bundle = planned_bundle(problem.operators)
    solver = ResidentEquilibrium.of_bundle(bundle, problem.operators, FixedPointConfig(), "tensorrt-native")
    cuda.fails = "cudaStreamSynchronize"
    with pytest.raises(DeviceError, match="cudaStreamSynchronize failed"):
        solver.solve(problem.measurements)


@pytest.mark.parametrize("setting", [{"warm_start": True}, {"threads": 2}])
def test_settings_of_the_host_have_no_meaning(settings, operators, setting) -> None:
    with pytest.raises(ConfigError, match=r"warm_start is not available|threads is 2"):
        open_method("deq", operators, replace(settings, **setting))
