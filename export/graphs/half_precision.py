"""Copies of ONNX graphs that convolve in half precision and do everything else in single precision.

TensorRT 11 takes the type of every operation from the graph, so a plan is of half precision only if its graph
is. Inputs, outputs and the algebra around the convolutions (norms, the epsilon ball, sums, the image skip)
stay float32.
"""

from collections import Counter

import numpy as np
import onnx
from onnx import TensorProto, checker, helper, numpy_helper

from export.errors import ExportError

CONVOLUTION = "Conv"

TRANSPARENT = frozenset({"Concat", "Relu"})
"""Operators that select or move values: rounding before them gives the same numbers as rounding after."""

LARGEST_HALF = float(np.finfo(np.float16).max)


def to_half_precision(model: bytes) -> bytes:
    """Return a copy of a graph whose convolutions read, compute and return half precision.

    Weights become half precision. What stands between convolutions and only moves values (`TRANSPARENT`)
    is computed in half precision too, which changes no value and saves the conversions there and back.

    Parameters
    ----------
    model : bytes
        Serialized ONNX graph in single precision, weights inside.

    Returns
    -------
    bytes
        Serialized graph with the same inputs and outputs; equal graphs give equal bytes. Without a
        convolution nothing changes.

    Raises
    ------
    ExportError
        If a convolution has weights that are no constants, or that half precision cannot hold.
    """
    copy = onnx.load_model_from_string(model)
    _Rewriter(copy.graph).rewrite()
    checker.check_model(copy, full_check=True)
    return bytes(copy.SerializeToString(deterministic=True))


def rounded_in_single_precision(half: bytes) -> bytes:
    """Return a graph of single precision that rounds wherever a graph of `to_half_precision` does.

    A CPU has no convolution in half precision, and ONNX Runtime passes values between such convolutions
    unrounded there: it hides rounding and overflow. This graph has neither excuse. Sums inside a convolution
    are of single precision, as on the tensor cores of a GPU.

    Parameters
    ----------
    half : bytes
        Result of `to_half_precision`.

    Returns
    -------
    bytes
        Serialized graph with the same inputs and outputs.
    """
    model = onnx.load_model_from_string(half)
    graph = model.graph
    tensors = [_widened(tensor) for tensor in graph.initializer]
    nodes = []
    for node in graph.node:
        kind = next((entry.i for entry in node.attribute if entry.name == "to"), None)
        if node.op_type == "Cast" and kind == TensorProto.FLOAT:
            nodes.append(helper.make_node("Identity", [node.input[0]], [node.output[0]]))
        elif node.op_type == "Cast" and kind == TensorProto.FLOAT16:
            nodes += _rounding(node.input[0], node.output[0])
        elif node.op_type == CONVOLUTION:
            result = node.output[0]
            node.output[0] = f"{result}_unrounded"
            nodes += [node, *_rounding(node.output[0], result)]
        else:
            nodes.append(node)
    rewritten = helper.make_graph(nodes, graph.name, list(graph.input), list(graph.output), tensors)
    model.graph.CopyFrom(rewritten)
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _widened(tensor: onnx.TensorProto) -> onnx.TensorProto:
    if tensor.data_type != TensorProto.FLOAT16:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)


def _rounding(source: str, target: str) -> list[onnx.NodeProto]:
    return [
        _cast(source, f"{target}_rounded", TensorProto.FLOAT16),
        _cast(f"{target}_rounded", target, TensorProto.FLOAT),
    ]


class _Rewriter:
    """One pass over the nodes of a graph in their order, with a cast where the precision changes."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._in_half = _nodes_in_half(graph)
        self._produced: set[str] = set()
        self._nodes: list[onnx.NodeProto] = []

    def rewrite(self) -> None:
        # Values that a node of single precision reads, besides the outputs of the graph.
        nodes = list(enumerate(self._graph.node))
        singles = {name for i, node in nodes if i not in self._in_half for name in node.input}
        singles |= {value.name for value in self._graph.output}
        for i, node in nodes:
            if i in self._in_half:
                self._convert(node, singles)
            else:
                self._nodes.append(node)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        # Shapes and types that the exporter noted for inner values are those of single precision.
        del self._graph.value_info[:]
        used = {name for node in self._graph.node for name in node.input}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

    def _convert(self, node: onnx.NodeProto, singles: set[str]) -> None:
        result = node.output[0]
        for position, name in enumerate(node.input):
            is_weight = node.op_type == CONVOLUTION and position > 0
            if name:
                node.input[position] = self._half(name, is_weight=is_weight)
        node.output[0] = _half_name(result)
        self._produced.add(result)
        self._nodes.append(node)
        if result in singles:
            self._nodes.append(_cast(node.output[0], result, TensorProto.FLOAT))

    def _half(self, name: str, *, is_weight: bool) -> str:
        """Return the name of the value in half precision, made here if no earlier node made it."""
        half = _half_name(name)
        if name in self._produced:
            return half
        self._produced.add(name)
        if name in self._weights:
            tensor = numpy_helper.from_array(_rounded(name, self._weights[name]), half)
            self._graph.initializer.append(tensor)
        elif is_weight:
            raise ExportError(
                f"the weight {name} of a convolution is computed by the graph; expected a constant: "
                "build the plan in fp32"
            )
        else:
            self._nodes.append(_cast(name, half, TensorProto.FLOAT16))
        return half


def _nodes_in_half(graph: onnx.GraphProto) -> set[int]:
    """Positions of the convolutions, and of the transparent nodes whose result only such nodes read."""
    readers: Counter[str] = Counter(name for node in graph.node for name in set(node.input))
    readers.update(value.name for value in graph.output)
    half_readers: Counter[str] = Counter()
    chosen: set[int] = set()
    for i, node in reversed(list(enumerate(graph.node))):  # readers come after what they read
        result = node.output[0]
        between = node.op_type in TRANSPARENT and readers[result] == half_readers[result] > 0
        if node.op_type == CONVOLUTION or between:
            chosen.add(i)
            half_readers.update(set(node.input))
    return chosen


def _rounded(name: str, tensor: onnx.TensorProto) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
    values = numpy_helper.to_array(tensor)
    if np.abs(values).max(initial=0.0) > LARGEST_HALF:
        raise ExportError(
            f"the weight {name} reaches {np.abs(values).max():.3g}; half precision ends at {LARGEST_HALF:g}: "
            "build the plan in fp32"
        )
    return values.astype(np.float16)


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=kind)


def _half_name(name: str) -> str:
    return f"{name}_half"
