"""The two networks as ONNX graphs: what the engine runs, checked before it is written.

A graph is accepted only with the promised names, axes and types, operators from a short list and no
control flow; the file holds its weights and nothing about the machine that wrote it.
"""

import copy
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from onnx import checker, shape_inference
from torch import nn
from torch.export import Dim

from engine.errors import NonFiniteError
from engine.machine.atomic_write import atomic_path
from engine.networks.manifest import NOISE_INPUT
from export.errors import ExportError

OPSET = 18
"""Read by every ONNX Runtime and TensorRT that the engine supports; nothing here needs a newer one."""

MAX_IR_VERSION = 10
"""Newer files are refused by runtimes that are still in use."""

ALLOWED_OPS = frozenset(
    {"Add", "Clip", "Concat", "Constant", "Conv", "Div", "Expand", "Log", "Mul", "Pow", "ReduceSum", "Relu"}
    | {"Reshape", "Shape", "Sqrt", "Sub"}
)
"""Operators the graphs may use. Loop, If and Scan stay out: they forbid CUDA graphs."""

MAX_REASON_LENGTH = 300
"""Characters of another library's message that ours repeats."""

Axes = tuple[str | int, ...]


@dataclass(frozen=True)
class GraphInterface:
    """Names and axes of a graph's inputs and of its single output `z`; a string is a dynamic axis.

    Attributes
    ----------
    inputs : mapping of str to tuple
        Axes of each input, in call order.
    output : tuple
        Axes of `z`.
    """

    inputs: Mapping[str, Axes]
    output: Axes


RDN_INTERFACE = GraphInterface(
    inputs={"v": ("batch", 1, "height", "width")},
    output=("batch", 1, "height", "width"),
)
NOISE_AWARE_RDN_INTERFACE = GraphInterface(
    inputs={**RDN_INTERFACE.inputs, NOISE_INPUT: ("batch", 1, 1, 1)},
    output=RDN_INTERFACE.output,
)
LC_INTERFACE = GraphInterface(
    inputs={
        "v": ("batch", 2, "lines", "bins"),
        "y": ("batch", 2, "lines", "bins"),
        "mask": (1, 1, "lines", "bins"),
        "epsilon": ("batch", 1, 1, 1),
    },
    output=("batch", 2, "lines", "bins"),
)

EXAMPLE_EXTENT = {"batch": 2, "height": 6, "width": 5, "lines": 6, "bins": 5}
"""Example sizes for tracing, all different from 1, which a tracer may take for a constant."""


def rdn_interface(module: nn.Module) -> GraphInterface:
    """Return the interface of an image prior's graph: with the noise level if the module takes it."""
    return NOISE_AWARE_RDN_INTERFACE if getattr(module, "takes_noise", False) else RDN_INTERFACE


def export_rdn(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the image prior as an ONNX graph.

    Input `v` (batch, 1, height, width), for a network that takes the noise level also `noise`
    (batch, 1, 1, 1); output `z` of the shape of `v`, float32.

    Parameters
    ----------
    module : nn.Module
        Maps images (B, 1, H, W) to images. Left as it is; a copy is traced in evaluation mode.
    path : path-like
        File to write; replaced at once when the graph is complete and checked.

    Raises
    ------
    ExportError
        If the module cannot be traced, or its graph breaks the interface.
    NonFiniteError
        If a weight is NaN or infinite.
    """
    _export(module, rdn_interface(module), Path(path))


def export_lc(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the data consistency as an ONNX graph, the epsilon bound included.

    Inputs `v` and `y` (batch, 2, lines, bins), `mask` (1, 1, lines, bins), `epsilon` (batch, 1, 1, 1),
    output `z` (batch, 2, lines, bins), float32. Parameters and errors as in `export_rdn`.
    """
    _export(module, LC_INTERFACE, Path(path))


def check_graph(model: onnx.ModelProto, interface: GraphInterface) -> None:
    """Check a graph against ONNX itself and against the promised interface.

    Raises
    ------
    ExportError
        Naming what was found and what was expected.
    """
    inferred = check_operators(model, ALLOWED_OPS)
    _check_values("inputs", inferred.graph.input, interface.inputs)
    _check_values("outputs", inferred.graph.output, {"z": interface.output})


def check_operators(model: onnx.ModelProto, allowed: frozenset[str]) -> onnx.ModelProto:
    """Check that a graph is valid ONNX of our opset, made of allowed operators only.

    Returns
    -------
    onnx.ModelProto
        The graph with the shapes that follow from its inputs.

    Raises
    ------
    ExportError
        Naming what was found and what was expected.
    """
    try:
        checker.check_model(model, full_check=True)
        inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is not valid ONNX: {_one_line(error)}") from error
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets != {"": OPSET} or model.ir_version > MAX_IR_VERSION:
        raise ExportError(
            f"the graph uses opsets {opsets} and IR {model.ir_version}; "
            f"expected opset {OPSET} of the default domain and IR {MAX_IR_VERSION} or older"
        )
    foreign = sorted({node.op_type for node in model.graph.node} - allowed)
    if foreign or model.functions:
        names = foreign + [function.name for function in model.functions]
        raise ExportError(
            f"the graph uses {', '.join(names)}; allowed are {', '.join(sorted(allowed))}: "
            "rewrite the module without it, or extend the list after checking the runtimes"
        )
    return inferred


def _export(module: nn.Module, interface: GraphInterface, path: Path) -> None:
    model = _trace(_frozen_copy(module), interface)
    _strip_metadata(model)
    check_graph(model, interface)
    with atomic_path(path) as temporary:
        Path(temporary).write_bytes(model.SerializeToString(deterministic=True))


def _frozen_copy(module: nn.Module) -> nn.Module:
    for name, value in module.state_dict().items():
        if value.dtype != torch.float32:
            raise ExportError(f"{name} is {value.dtype}; expected float32: call .float() first")
        if not torch.isfinite(value).all():
            raise NonFiniteError(f"{name} holds NaN or infinity; expected finite weights: export another run")
    return copy.deepcopy(module).cpu().eval()


def _trace(module: nn.Module, interface: GraphInterface) -> onnx.ModelProto:
    example = tuple(
        torch.ones([EXAMPLE_EXTENT[a] if isinstance(a, str) else a for a in axes])
        for axes in interface.inputs.values()
    )
    try:
        with _quiet_exporter():
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                input_names=list(interface.inputs),
                output_names=["z"],
                dynamic_shapes=_dynamic_shapes(interface),
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, TypeError) as error:
        raise ExportError(
            f"{type(module).__name__} cannot be traced with inputs {', '.join(interface.inputs)}: "
            f"{_one_line(error.__cause__ or error)}; "
            "expected a module without data-dependent control flow or fixed sizes"
        ) from error
    if program is None:  # only the deprecated exporter returns nothing
        raise ExportError("the exporter returned no program; expected torch.onnx.export with dynamo=True")
    return program.model_proto


def _dynamic_shapes(interface: GraphInterface) -> tuple[dict[int, object], ...]:
    """Name each dynamic axis once, at its first use; tracing finds out that the others are equal."""
    named: set[str | int] = set()
    shapes: list[dict[int, object]] = []
    for axes in interface.inputs.values():
        shapes.append({i: Dim.DYNAMIC if a in named else a for i, a in enumerate(axes) if isinstance(a, str)})
        named.update(axes)
    return tuple(shapes)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what the exporter says about itself (absent torchvision, deprecations inside torch)."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)


def _strip_metadata(model: onnx.ModelProto) -> None:
    """Remove stack traces with file names, so that equal weights give equal bytes on every machine."""
    graph = model.graph
    values = [*graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for part in (model, graph, *graph.node, *values):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _check_values(kind: str, values: list[onnx.ValueInfoProto], expected: Mapping[str, Axes]) -> None:
    found = {value.name: _axes(value) for value in values}
    if list(found.items()) != [(name, ("float32", *axes)) for name, axes in expected.items()]:
        raise ExportError(f"the graph's {kind} are {found}; expected float32 {dict(expected)}")


def _axes(value: onnx.ValueInfoProto) -> tuple[str | int, ...]:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return (dtype, *(d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim))


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= MAX_REASON_LENGTH else text[:MAX_REASON_LENGTH] + " ..."
