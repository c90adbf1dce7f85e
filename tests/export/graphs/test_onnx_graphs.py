"""The exported graphs compute what the torch modules compute, at every size, and hold nothing else."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import nn

from engine.errors import NonFiniteError
from export.errors import ExportError
from export.graphs.onnx_graphs import ALLOWED_OPS, OPSET, RDN_INTERFACE, check_graph, export_lc, export_rdn
from trainer.networks.consistency import LearnedConsistency

FLOAT32_TOLERANCE = 2e-6
"""Relative to the largest output: sums of a few hundred float32 products in another order (1e-7 each)."""

CONTROL_FLOW = {"If", "Loop", "Scan"}

many_sizes = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype == np.float32
    assert expected.size > 0
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def dense_inputs(seed: int, batch: int, lines: int, bins: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = (rng.random((1, 1, lines, bins)) < 0.6).astype(np.float32)
    mask[..., 0, 0] = 1.0
    shape = (batch, 2, lines, bins)
    return {
        "v": (rng.standard_normal(shape) * mask).astype(np.float32),
        "y": (rng.standard_normal(shape) * mask).astype(np.float32),
        "mask": mask,
        "epsilon": rng.uniform(0.1, 10.0, (batch, 1, 1, 1)).astype(np.float32),
    }


@torch.no_grad()
def in_torch(module: nn.Module, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return module(*(torch.from_numpy(value) for value in inputs.values())).numpy()


@pytest.mark.parametrize(
    "shape", [(1, 1, 13, 26), (2, 1, 13, 26), (7, 1, 26, 52), (1, 1, 1, 1), (3, 1, 40, 3)]
)
def test_rdn_graph_equals_the_module(rdn, run_rdn, shape):
    v = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    assert relative_error(run_rdn(v=v), in_torch(rdn, {"v": v})) < FLOAT32_TOLERANCE


@many_sizes
@given(
    batch=st.integers(1, 9), height=st.integers(1, 33), width=st.integers(1, 33), scale=st.floats(0.5, 1e3)
)
def test_rdn_graph_equals_the_module_at_any_size(rdn, run_rdn, batch, height, width, scale):
    rng = np.random.default_rng(height * 100 + width)
    v = (scale * rng.uniform(0.5, 1.0, (batch, 1, height, width))).astype(np.float32)
    assert relative_error(run_rdn(v=v), in_torch(rdn, {"v": v})) < FLOAT32_TOLERANCE


@pytest.mark.parametrize(("batch", "lines", "bins"), [(1, 60, 130), (2, 60, 130), (7, 3, 17), (1, 1, 1)])
def test_lc_graph_equals_the_module(lc, run_lc, batch, lines, bins):
    inputs = dense_inputs(0, batch, lines, bins)
    assert relative_error(run_lc(**inputs), in_torch(lc, inputs)) < FLOAT32_TOLERANCE


@many_sizes
@given(seed=st.integers(0, 999), batch=st.integers(1, 9), lines=st.integers(1, 20), bins=st.integers(1, 40))
def test_lc_graph_equals_the_module_at_any_size(lc, run_lc, seed, batch, lines, bins):
    inputs = dense_inputs(seed, batch, lines, bins)
    found = run_lc(**inputs)
    assert relative_error(found, in_torch(lc, inputs)) < FLOAT32_TOLERANCE
    # The bound of Eq. (25) holds in the graph itself, per sample.
    distance = np.sqrt(np.square(found - inputs["y"], dtype=np.float64).sum((1, 2, 3)))
    assert np.all(distance <= inputs["epsilon"].reshape(-1) * (1 + FLOAT32_TOLERANCE))
    assert np.all(found[np.broadcast_to(inputs["mask"] == 0, found.shape)] == 0)


@pytest.fixture(scope="module")
def run_projection(tmp_path_factory, open_graph):
    """An LC block with weights that pass v through, so that its graph is the projection of Eq. (10)."""
    module = LearnedConsistency(features=4, hidden_layers=0, kernel=1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        for component in range(2):  # relu(v) and relu(-v), then their difference
            for sign, channel in ((1.0, 2 * component), (-1.0, 2 * component + 1)):
                module.hidden[0].weight[channel, 2 + component] = sign
                module.exit.weight[component, channel] = sign
    path = tmp_path_factory.mktemp("projection") / "lc.onnx"
    export_lc(module, path)
    return open_graph(path)


def test_graph_of_an_identity_lc_is_the_projection_on_the_ball(run_projection):
    inputs = dense_inputs(3, 5, 6, 7)
    inputs["epsilon"][:] = np.array([0.01, 1.0, 3.0, 30.0, 300.0], np.float32).reshape(-1, 1, 1, 1)
    v, y, epsilon = (inputs[key].astype(np.float64) for key in ("v", "y", "epsilon"))
    distance = np.linalg.norm((v - y).reshape(5, -1), axis=1).reshape(-1, 1, 1, 1)
    expected = y + (v - y) * np.minimum(1.0, epsilon / distance)
    assert np.any(distance > epsilon)
    assert np.any(distance < epsilon)
    assert relative_error(run_projection(**inputs), expected.astype(np.float32)) < FLOAT32_TOLERANCE


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_zero_difference_stays_where_it_is(run_projection, batch, epsilon):
    inputs = dense_inputs(4, batch, 6, 7)
    inputs["v"] = inputs["y"].copy()
    inputs["epsilon"][:] = epsilon
    np.testing.assert_array_equal(run_projection(**inputs), inputs["y"])


def test_rdn_graph_holds_allowed_operators_only(rdn_graph):
    operators = {node.op_type for node in onnx.load(rdn_graph).graph.node}
    assert operators == {"Add", "Concat", "Conv", "Relu"}


def test_lc_graph_holds_allowed_operators_only(lc_graph):
    operators = {node.op_type for node in onnx.load(lc_graph).graph.node}
    assert "Conv" in operators
    assert operators <= ALLOWED_OPS
    assert not ALLOWED_OPS & CONTROL_FLOW


@pytest.mark.parametrize("graph", ["rdn_graph", "lc_graph"])
def test_graph_is_one_file_without_traces_of_its_machine(graph, request):
    path = request.getfixturevalue(graph)
    content = path.read_bytes()
    for trace in (b"stack_trace", b".py", str(Path(torch.__file__).parent).encode()):
        assert trace not in content
    model = onnx.load(path, load_external_data=False)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert all(not tensor.external_data for tensor in model.graph.initializer)


def test_equal_weights_give_equal_files(lc, lc_graph, tmp_path):
    again = tmp_path / "again.onnx"
    export_lc(lc, again)
    assert again.read_bytes() == lc_graph.read_bytes()


def test_the_module_is_left_as_it_was(tmp_path):
    module = LearnedConsistency(features=2, hidden_layers=0)
    module.train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    export_lc(module, tmp_path / "lc.onnx")
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


class Sine(nn.Module):
    def forward(self, v):
        return torch.sin(v)


class Branching(nn.Module):
    def forward(self, v):
        return v if v.sum() > 0 else -v


class FixedBatch(nn.Module):
    def forward(self, v):
        return v + torch.ones(2, 1, 6, 5)


@pytest.mark.parametrize(
    ("module", "words"),
    [(Sine(), "uses Sin;"), (Branching(), "cannot be traced"), (FixedBatch(), "static shape")],
)
def test_modules_outside_the_contract_are_refused(module, words, tmp_path):
    with pytest.raises(ExportError, match=words) as caught:
        export_rdn(module, tmp_path / "rdn.onnx")
    assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_non_finite_weights_are_refused(tmp_path):
    module = LearnedConsistency()
    with torch.no_grad():
        module.exit.bias[0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"exit\.bias"):
        export_lc(module, tmp_path / "lc.onnx")
    assert list(tmp_path.iterdir()) == []


def test_double_precision_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"float64.*call \.float\(\)"):
        export_lc(LearnedConsistency().double(), tmp_path / "lc.onnx")


def graph_of(
    nodes: list[onnx.NodeProto],
    *,
    axes: tuple[str | int, ...] = RDN_INTERFACE.output,
    opset: int = OPSET,
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "made by hand",
        [helper.make_tensor_value_info("v", dtype, RDN_INTERFACE.inputs["v"])],
        [helper.make_tensor_value_info("z", dtype, axes)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def test_a_graph_made_by_hand_passes():
    check_graph(graph_of([helper.make_node("Relu", ["v"], ["z"])]), RDN_INTERFACE)


def conditional() -> list[onnx.NodeProto]:
    value = helper.make_tensor_value_info("r", TensorProto.FLOAT, RDN_INTERFACE.output)
    branch = helper.make_graph([helper.make_node("Relu", ["v"], ["r"])], "branch", [], [value])
    always = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    return [
        helper.make_node("Constant", [], ["c"], value=always),
        helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch),
    ]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (graph_of(conditional()), "uses If;"),
        (graph_of([helper.make_node("Relu", ["v"], ["z"])], opset=20), "opset 18"),
        (graph_of([helper.make_node("Relu", ["absent"], ["z"])]), "not valid ONNX"),
        (graph_of([helper.make_node("Relu", ["v"], ["z"])], axes=("n", 1, "height", "width")), "outputs"),
        (graph_of([helper.make_node("Relu", ["v"], ["z"])], dtype=TensorProto.DOUBLE), "float64"),
    ],
    ids=["control flow", "opset", "invalid", "axis name", "type"],
)
def test_graphs_outside_the_contract_are_refused(model, words):
    with pytest.raises(ExportError, match=words):
        check_graph(model, RDN_INTERFACE)
