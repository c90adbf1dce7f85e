"""One evaluation by the step graph against `AdmmStep`, its mixtures and inner products against numpy.

The same tests take everything that runs a step (`provider`); "cuda" is skipped where there is no such device.
"""

from functools import partial

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.calibration.calibrate import make_operators
from engine.errors import BundleError, PairingError, ProviderError
from engine.fixed_point.solve_in_slots import START_SLOT
from engine.mpi.grid import Grid
from engine.networks.sessions import OnnxConsistency, OnnxPrior
from engine.solvers.deq.admm_step import AdmmStep
from engine.solvers.deq.device_step import DeviceStep
from engine.solvers.deq.device_tensor import DeviceTensor
from engine.solvers.deq.onnx_step_runner import OnnxStepRunner
from engine.solvers.deq.step_runner import SLOT_ROWS

STATE_TOLERANCE = 5e-5
"""Relative to the largest value of each part. A x is mixed here and computed there: float32 rounding of 6e-8
times a spectral norm of 25 times mixtures of some 5 states with weights of size 2."""

SUM_TOLERANCE = 1e-5
"""Relative: float32 sums of some hundred products, of terms that the shadow computes in double precision."""

PARTS_MIXED = 2.0
"""Size of the random weights, which sum to 1: some of them cancel, as those of Anderson do."""

N_SLOTS = 5


def has_cuda() -> bool:
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


needs_cuda = pytest.mark.skipif(
    not has_cuda(), reason="this ONNX Runtime has no CUDA provider; run it on a GPU with deq-mpi[gpu]"
)


@pytest.fixture(scope="module")
def graph(step_bundle) -> bytes:
    return step_bundle.networks["step"]


@pytest.fixture(scope="module")
def operators(small_system_matrix):
    return make_operators(small_system_matrix)


def random_weights(rng, n_slots: int, filled: int) -> np.ndarray:
    weights = np.zeros(n_slots)
    weights[:filled] = rng.uniform(-PARTS_MIXED, PARTS_MIXED, filled)
    weights[0] += 1.0 - weights.sum()
    return weights


def compare(bundle, open_step, operators, seed: int) -> None:
    """Walk through all slots, each evaluation at a damped mixture of all before it."""
    rng = np.random.default_rng(seed)
    n, r = operators.n_voxels, operators.n_rows
    parts = (slice(0, n), slice(n, n + r), slice(n + r, None))
    expected = AdmmStep(operators, OnnxPrior(bundle), OnnxConsistency(bundle))
    found = DeviceStep(open_step(operators, N_SLOTS), operators)
    assert found.n_slots == N_SLOTS
    for epsilon in (0.4, 1.3):  # twice: nothing of the first measurement may stay
        image, y, dual = (rng.standard_normal(size).astype(np.float32) for size in (n, r, r))
        expected.set_measurements(y[None], np.array([epsilon]))
        found.set_measurement(y, epsilon)
        found.start(image, dual)
        states = np.zeros((N_SLOTS, 2 * n + r))
        residuals = np.zeros_like(states)
        states[START_SLOT] = expected.states(image[None], dual[None])[0, : expected.measured]
        np.testing.assert_array_equal(found.read_state(START_SLOT), states[START_SLOT].astype(np.float32))
        for slot in range(1, N_SLOTS):
            weights, damping = random_weights(rng, N_SLOTS, slot), rng.choice([0.0, -1.0, 0.3])
            seen = found.evaluate(weights, damping, slot)
            point = weights @ (states - damping * residuals)
            value = expected.evaluate(point)
            states[slot] = found.read_state(slot)
            for part in parts:
                limit = STATE_TOLERANCE * max(np.abs(value[part]).max(), np.abs(point[part]).max())
                np.testing.assert_allclose(states[slot, part], value[part], rtol=0, atol=limit)
            np.testing.assert_array_equal(found.read_image(slot), states[slot, :n])
            residuals[slot] = states[slot] - point
            norm = np.linalg.norm(residuals, axis=1)
            limit = SUM_TOLERANCE * np.maximum(norm * norm[slot], norm[slot] ** 2)
            np.testing.assert_array_less(
                np.abs(seen.products - residuals @ residuals[slot])[:slot], limit[:slot]
            )
            np.testing.assert_allclose(seen.squared_residual, norm[slot] ** 2, rtol=SUM_TOLERANCE)
            np.testing.assert_allclose(seen.squared_value, states[slot] @ states[slot], rtol=SUM_TOLERANCE)


def test_an_evaluation_is_an_admm_step_at_the_mixture(step_bundle, open_step, operators) -> None:
    compare(step_bundle, open_step, operators, 0)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1000),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    n_rows=st.integers(1, 40),
    lines=st.integers(1, 5),
)
def test_an_evaluation_at_any_size(step_bundle, graph, make_system_matrix, seed, size, n_rows, lines) -> None:
    grid = Grid((*size, 1), (0.002 * size[0], 0.002 * size[1], 0.002))
    rows = max(n_rows, -(-grid.n_voxels // 2))  # operators need as many real rows as voxels
    shape = (lines, -(-rows // lines) + 1)
    operators = make_operators(make_system_matrix(grid, rows, shape, seed))
    compare(step_bundle, partial(OnnxStepRunner, graph, "cpu"), operators, seed)


def test_a_weight_of_one_gives_the_very_value(open_step, operators) -> None:
    """So a solve resumes from exactly the point it goes back to: the evaluation repeats to the bit."""
    step = DeviceStep(open_step(operators, N_SLOTS), operators)
    rng = np.random.default_rng(2)
    step.set_measurement(rng.standard_normal(operators.n_rows), 0.5)
    step.start(rng.standard_normal(operators.n_voxels).astype(np.float32))
    one = np.eye(N_SLOTS)
    step.evaluate(one[START_SLOT], 0.0, 3)
    first = step.evaluate(one[3], 0.0, 1)
    again = step.evaluate(one[3], 0.0, 2)
    np.testing.assert_array_equal(step.read_state(1), step.read_state(2))
    assert first.squared_residual == again.squared_residual


def test_what_the_slot_held_before_does_not_matter(open_step, operators) -> None:
    """The slot written is part of an input too; its old content, however large, must leave no trace."""
    rng = np.random.default_rng(3)
    y, image = rng.standard_normal(operators.n_rows), rng.standard_normal(operators.n_voxels)
    reports = []
    for stale in (1.0, 1e8):
        runner = open_step(operators, N_SLOTS)
        step = DeviceStep(runner, operators)
        step.set_measurement(y, 0.5)
        step.start(np.full(operators.n_voxels, stale, np.float32))
        step.evaluate(np.eye(N_SLOTS)[START_SLOT], 0.0, 1)  # leaves large numbers in slot 1
        state = image.astype(np.float32)
        images, data = runner.read("images"), runner.read("data")
        images[START_SLOT], data[START_SLOT] = 0.0, 0.0
        images[START_SLOT, 0], data[START_SLOT, 1] = state, operators.system_matrix @ state
        runner.write("images", images)
        runner.write("data", data)
        seen = step.evaluate(np.eye(N_SLOTS)[START_SLOT], 0.0, 1)
        reports.append((seen.squared_residual, seen.squared_value, *step.read_state(1)))
    np.testing.assert_array_equal(reports[0], reports[1])


def test_a_failed_frame_leaves_no_trace(open_step, operators) -> None:
    """NaN survives a weight of zero, so a new start has to take it out of every slot."""
    rng = np.random.default_rng(4)
    y, image = rng.standard_normal(operators.n_rows), rng.standard_normal(operators.n_voxels)
    step = DeviceStep(open_step(operators, N_SLOTS), operators)
    start = np.eye(N_SLOTS)[START_SLOT]
    states = []
    for bad in (None, np.nan, None):
        step.set_measurement(y, 0.5 if bad is None else bad)
        step.start((image if bad is None else image * bad).astype(np.float32))
        seen = step.evaluate(start, 0.0, 2)
        assert np.isfinite(seen.squared_residual) == (bad is None)
        states.append(step.read_state(2))
    np.testing.assert_array_equal(states[0], states[2])


def test_operators_are_not_copied_on_the_cpu(graph, operators) -> None:
    runner = OnnxStepRunner(graph, "cpu", operators, N_SLOTS)
    for name in ("system_matrix", "weighted_adjoint", "inverse"):
        assert runner._inputs[name].row_address(0) == getattr(operators, name).ctypes.data


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_a_tensor_keeps_its_address(device) -> None:
    tensor = DeviceTensor(np.zeros((3, 2), np.float32), device)
    before = tensor.row_address(0)
    tensor.write(np.arange(6, dtype=np.float64))
    np.testing.assert_array_equal(tensor.read(), np.arange(6, dtype=np.float32).reshape(3, 2))
    assert tensor.row_address(0) == before
    assert tensor.row_address(2) == before + 16


def test_what_is_read_does_not_change_with_the_tensor() -> None:
    tensor = DeviceTensor(np.zeros(2, np.float32), "cpu")
    read = tensor.read()
    tensor.write(np.ones(2))
    np.testing.assert_array_equal(read, [0.0, 0.0])


def test_unknown_device(graph, operators) -> None:
    with pytest.raises(ProviderError, match="provider is 'tpu'; expected one of cpu, cuda"):
        OnnxStepRunner(graph, "tpu", operators, N_SLOTS)


@pytest.mark.skipif(has_cuda(), reason="this ONNX Runtime has the CUDA provider")
def test_cuda_where_there_is_none(graph, operators) -> None:
    with pytest.raises(ProviderError, match="cuda is not in this build of ONNX Runtime"):
        OnnxStepRunner(graph, "cuda", operators, N_SLOTS)


def test_cuda_is_asked_for_graphs_and_against_any_other_provider(graph, operators, monkeypatch) -> None:
    """What the runtime is told, seen by a runtime that only listens."""
    seen = {}

    class StopError(Exception):
        pass

    def listen(model, options, providers):
        entry = options.get_session_config_entry
        seen.update(providers=providers, no_fallback=entry("session.disable_cpu_ep_fallback"))
        raise StopError

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", listen)
    with pytest.raises(BundleError):
        OnnxStepRunner(graph, "cuda", operators, N_SLOTS)
    expected = ("CUDAExecutionProvider", {"use_tf32": "0", "enable_cuda_graph": "1"})
    assert seen == {"providers": [expected], "no_fallback": "1"}


def test_images_of_several_slices_are_refused(graph, make_system_matrix) -> None:
    operators = make_operators(make_system_matrix(Grid((3, 2, 2), (0.006, 0.004, 0.004)), 20, (4, 6), 1))
    with pytest.raises(PairingError, match="2 slices"):
        OnnxStepRunner(graph, "cpu", operators, N_SLOTS)


def test_another_network_is_no_step(step_bundle, operators) -> None:
    with pytest.raises(BundleError, match=r"inputs of the step are \['v'\].*deqmpi-export add-step"):
        OnnxStepRunner(step_bundle.networks["rdn"], "cpu", operators, N_SLOTS)


def test_a_slot_has_rows_for_value_and_residual(open_step, operators) -> None:
    runner = open_step(operators, N_SLOTS)
    assert runner.read("images").shape == (N_SLOTS, SLOT_ROWS, operators.n_voxels)
    assert runner.read("data").shape == (N_SLOTS, SLOT_ROWS, operators.n_rows)
