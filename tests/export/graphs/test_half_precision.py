"""Half precision: only convolutions change, and the numbers are those of torch in half precision."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from engine.networks.axis_ranges import REFERENCE_LENGTHS, axis_ranges
from engine.networks.bundle import load_bundle
from export.errors import ExportError, ParityError
from export.graphs.half_precision import rounded_in_single_precision, to_half_precision
from export.parity.half_parity import HALF_TOLERANCE, half_precision_difference

FIXTURE = Path(__file__).parents[2] / "fixtures" / "bundle"

ONE_ROUNDING = 4.9e-4
"""Relative to the largest value: sums in another order may round to the neighbour, half an ulp further."""

TWO_ROUNDINGS = 2 * ONE_ROUNDING
"""ONNX Runtime passes values from one convolution to the next unrounded on a CPU."""


def types(graph):
    """Element type of every value of a graph, as ONNX infers it."""
    inferred = onnx.shape_inference.infer_shapes(graph, strict_mode=True).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    return {value.name: value.type.tensor_type.elem_type for value in values} | {
        tensor.name: tensor.data_type for tensor in inferred.initializer
    }


@pytest.fixture(scope="module", params=["rdn", "lc"])
def pair(request):
    """A network of the reference bundle, and its copy in half precision."""
    original = load_bundle().networks[request.param]
    return onnx.load_model_from_string(original), onnx.load_model_from_string(to_half_precision(original))


def test_inputs_and_outputs_stay_as_they_are(pair) -> None:
    single, half = pair
    assert list(half.graph.input) == list(single.graph.input)
    assert list(half.graph.output) == list(single.graph.output)


def test_exactly_the_convolutions_and_what_lies_between_are_in_half_precision(pair) -> None:
    single, half = pair
    kinds = types(half)
    in_half = {n.op_type for n in half.graph.node if kinds[n.output[0]] == TensorProto.FLOAT16}
    assert in_half == {"Conv", "Relu", "Concat", "Cast"}
    for node in half.graph.node:
        if node.op_type == "Conv":
            assert {kinds[name] for name in [*node.input, *node.output]} == {TensorProto.FLOAT16}
    kept = [n.op_type for n in half.graph.node if n.op_type != "Cast"]
    assert kept == [n.op_type for n in single.graph.node]


def test_equal_graphs_give_equal_bytes_and_no_weight_is_kept_twice(pair) -> None:
    original = load_bundle().networks["rdn"]
    half = to_half_precision(original)
    assert half == to_half_precision(original)
    assert len(half) < 0.6 * len(original)


def conv_graph(weight, *, constant=True):
    """v -> Conv -> Relu -> (Conv, and the output z = Relu + v): one value read in both precisions."""
    shape = ["batch", 1, "height", "width"]
    tensors = [numpy_helper.from_array(np.asarray(weight, np.float32).reshape(1, 1, 3, 3), "w")]
    nodes = [
        helper.make_node("Conv", ["v", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["b", "c"], ["d"]),
        helper.make_node("Add", ["d", "v"], ["z"]),
    ]
    if not constant:
        nodes.insert(0, helper.make_node("Neg", ["w0"], ["w"]))
        tensors[0].name = "w0"
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "vz"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


def rms(values):
    return np.sqrt(np.mean(values**2))


def test_the_numbers_are_those_of_torch_in_half_precision() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((1, 1, 3, 3)).astype(np.float32)
    v = rng.standard_normal((2, 1, 6, 5)).astype(np.float32)
    half = to_half_precision(conv_graph(weight))
    w = torch.from_numpy(weight).half()
    b = functional.relu(functional.conv2d(torch.from_numpy(v).half(), w, padding=1))
    c = functional.conv2d(b, w, padding=1)
    expected = (b.float() + c.float()).numpy() + v
    scale = np.abs(c.float().numpy()).max()
    single, on_cpu, rounded = (
        onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(None, {"v": v})[0]
        for graph in (conv_graph(weight), half, rounded_in_single_precision(half))
    )
    np.testing.assert_allclose(on_cpu, expected, rtol=0, atol=TWO_ROUNDINGS * scale)
    np.testing.assert_allclose(rounded, expected, rtol=0, atol=ONE_ROUNDING * scale)
    assert rms(rounded - expected) < 0.2 * rms(single - expected)  # most values agree to the last bit


def test_a_graph_without_convolution_does_not_change() -> None:
    original = (FIXTURE / "lc.onnx").read_bytes()
    assert onnx.load_model_from_string(to_half_precision(original)) == onnx.load_model_from_string(original)


def test_a_weight_that_half_precision_cannot_hold_is_refused() -> None:
    with pytest.raises(ExportError, match=r"weight w reaches 7e\+04; half precision ends at 65504: .* fp32"):
        to_half_precision(conv_graph([7e4] + 8 * [0.0]))


def test_a_computed_weight_is_refused() -> None:
    with pytest.raises(ExportError, match="the weight w of a convolution is computed by the graph"):
        to_half_precision(conv_graph(9 * [1.0], constant=False))


@pytest.mark.parametrize("role", ["rdn", "lc"])
def test_the_shipped_networks_lose_little(role) -> None:
    bundle = load_bundle()
    single = bundle.networks[role]
    difference = half_precision_difference(
        single,
        to_half_precision(single),
        bundle.manifest.networks[role].inputs,
        axis_ranges(REFERENCE_LENGTHS),
    )
    assert 1e-5 < difference < HALF_TOLERANCE


INPUTS = {"v": ("batch", 1, "height", "width")}


def difference(single, half):
    return half_precision_difference(single, half, INPUTS, axis_ranges(REFERENCE_LENGTHS))


def test_a_network_whose_values_overflow_is_refused() -> None:
    """Nine times 3e4 times half a unit is more than 65504; on a CPU ONNX Runtime would hide it."""
    graph = conv_graph(9 * [3e4])
    with pytest.raises(ParityError, match=r"differs by inf .* \(limit 0.005\).*without --fp16"):
        difference(graph, to_half_precision(graph))


def test_the_difference_is_that_of_the_outputs() -> None:
    """Against a graph of other weights: v + (1 + w) w relu(v) with w and 1.5 w, known where v is largest."""
    w = 2.0**-9  # exact in half precision, as 1.5 w is
    weight = np.zeros(9)
    weight[4] = w
    found = difference(conv_graph(weight), to_half_precision(conv_graph(1.5 * weight)))
    gain, other = 1 + (1 + w) * w, 1 + (1 + 1.5 * w) * 1.5 * w
    assert found == pytest.approx((other - gain) / gain, rel=0.25)  # the largest |v| may be negative


def test_equal_graphs_do_not_differ() -> None:
    weight = np.zeros(9)
    assert difference(conv_graph(weight), to_half_precision(conv_graph(weight))) == 0
