"""How far a graph in half precision is from its original: measured with ONNX Runtime on the CPU."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from engine.networks.axis_ranges import BATCH, AxisRange, shape_range
from engine.networks.manifest import Shape
from export.errors import ParityError
from export.graphs.half_precision import rounded_in_single_precision

HALF_TOLERANCE = 5e-3
"""Half precision rounds by up to 4.9e-4, and some twenty roundings lie on the way through a network; if they
add up at random, 2.2e-3. The shipped networks differ by 6e-4 to 1.4e-3."""

Arrays = dict[str, NDArray[Any]]

FRAMES = 5

LEVELS = np.geomspace(1e-2, 1e2, FRAMES)
"""Noise levels and bounds epsilon, one per frame: where epsilon is large the ball hides no difference."""


def half_precision_difference(
    single: bytes, half: bytes, inputs: Mapping[str, Shape], ranges: Mapping[str, AxisRange]
) -> float:
    """Return the largest difference of an output, relative to its largest value.

    Parameters
    ----------
    single : bytes
        Serialized graph in single precision.
    half : bytes
        Its copy by `export.graphs.half_precision.to_half_precision`.
    inputs : mapping of str to tuple
        Axes of each input, as in the manifest.
    ranges : mapping of str to AxisRange
        The optimum length of each named axis is used, but for the batch.

    Returns
    -------
    float

    Raises
    ------
    ParityError
        If it is not within `HALF_TOLERANCE`, or a result is not finite.
    """
    runs = [_open(graph) for graph in (single, rounded_in_single_precision(half))]
    indices, levels, values = _example(runs[0], inputs, {**ranges, BATCH: AxisRange.fixed(FRAMES)})
    expected, found = (run.run(None, {**indices, **levels, **values}) for run in runs)
    difference = float(np.max([_relative(*pair) for pair in zip(found, expected, strict=True)]))
    if not difference <= HALF_TOLERANCE:  # "not within" rather than "above": NaN must fail
        raise ParityError(
            f"the network in half precision differs by {difference:.2g} of its largest value from the one in "
            f"single precision (limit {HALF_TOLERANCE:g}); no plan was built: build it without --fp16"
        )
    return difference


def _relative(found: NDArray[Any], expected: NDArray[Any]) -> float:
    difference, scale = float(np.abs(found - expected).max()), float(np.abs(expected).max())
    return difference / scale if scale else float(difference > 0.0)


def _open(graph: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # An optimiser might take the rounding there and back for nothing.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _example(
    session: Any, inputs: Mapping[str, Shape], ranges: Mapping[str, AxisRange]
) -> tuple[Arrays, Arrays, Arrays]:
    """Return indices, all 0; levels, one per frame; and the rest: masks of 0 and 1, values of about 1."""
    rng = np.random.default_rng(4)
    types = {tensor.name: tensor.type for tensor in session.get_inputs()}
    indices: Arrays = {}
    levels: Arrays = {}
    values: Arrays = {}
    for name, axes in inputs.items():
        shape = shape_range(name, axes, ranges).optimum
        if types[name] == "tensor(int64)":
            indices[name] = np.zeros(shape, np.int64)
        elif BATCH in axes and set(axes) <= {1, BATCH}:
            levels[name] = LEVELS.reshape(shape).astype(np.float32)
        elif set(axes) == {1}:
            levels[name] = np.ones(shape, np.float32)
        elif name == "mask":
            values[name] = (rng.random(shape) < 0.4).astype(np.float32)
        else:
            values[name] = (0.5 * rng.standard_normal(shape)).astype(np.float32)
    return indices, levels, values
