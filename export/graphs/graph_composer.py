"""Put an ONNX graph together from single nodes and from whole graphs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.graphs.onnx_graphs import MAX_IR_VERSION, OPSET, Axes

ELEMENT_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


class GraphComposer:
    """Nodes and constants in the order in which they are added; values are referred to by name."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """Add a constant and return its name."""
        self._constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, op: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node with one output and return the name of it."""
        name = output or self._fresh(op)
        self._nodes.append(helper.make_node(op, list(inputs), [name], name=f"node_{name}", **attributes))
        return name

    def split(self, value: str, parts: int, axis: int = 0) -> list[str]:
        """Cut a value into equal parts along an axis and return their names."""
        name = self._fresh("Split")
        names = [f"{name}_{part}" for part in range(parts)]
        node = helper.make_node("Split", [value], names, name=f"node_{name}", axis=axis, num_outputs=parts)
        self._nodes.append(node)
        return names

    def inline(self, prefix: str, model: onnx.ModelProto, inputs: Mapping[str, str]) -> str:
        """Add all nodes of a graph without control flow, and return the name of its only output.

        Parameters
        ----------
        prefix : str
            Goes before every name inside the graph.
        model : onnx.ModelProto
            The graph.
        inputs : mapping of str to str
            For each of its inputs the value to use.
        """
        names = {"": "", **inputs}  # an empty name is an optional input left out
        for initializer in model.graph.initializer:
            names[initializer.name] = f"{prefix}{initializer.name}"
            copy = onnx.TensorProto()
            copy.CopyFrom(initializer)
            copy.name = names[initializer.name]
            self._constants.append(copy)
        for node in model.graph.node:
            names |= {name: f"{prefix}{name}" for name in node.output if name}
            copied = onnx.NodeProto()
            copied.CopyFrom(node)
            copied.input[:] = [names[name] for name in node.input]
            copied.output[:] = [names[name] for name in node.output]
            copied.name = f"node_{copied.output[0]}"  # the graph may have left its nodes without names
            self._nodes.append(copied)
        (output,) = model.graph.output
        return names[output.name]

    def model(
        self, name: str, inputs: Mapping[str, tuple[str, Axes]], outputs: Mapping[str, Axes]
    ) -> onnx.ModelProto:
        """Return the graph.

        Parameters
        ----------
        name : str
            Of the graph.
        inputs : mapping of str to (str, tuple)
            Type, "float32" or "int64", and axes of every input.
        outputs : mapping of str to tuple
            Axes of every output, float32.
        """
        graph = helper.make_graph(
            self._nodes,
            name,
            [
                helper.make_tensor_value_info(value, ELEMENT_TYPES[dtype], axes)
                for value, (dtype, axes) in inputs.items()
            ],
            [
                helper.make_tensor_value_info(value, TensorProto.FLOAT, axes)
                for value, axes in outputs.items()
            ],
            self._constants,
        )
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=MAX_IR_VERSION)

    def _fresh(self, op: str) -> str:
        return f"{op.lower()}_{len(self._nodes)}"
