"""What one core of this machine can do, and the least time that an evaluation of the map can take on it.

The least time counts the multiplications of the networks and products at the core's best rate for matrix
products, and the bytes of the operators at its rate for reading as much memory; each stage of an evaluation
is bound by the slower of the two, and the stages follow each other. Nothing else is counted: no call, no
copy, no acceleration.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import shape_inference

from engine.machine.arithmetic import single_blas_thread
from engine.networks.bundle import Bundle
from engine.operators.operators import Operators

MATRIX_SIZES = (256, 512, 1024)
"""Of the products that measure the rate of multiplications; the best counts."""

SECONDS = 1.0
"""Each rate is the best seen in so long."""

BYTES = 4
"""Of a float32."""


@dataclass(frozen=True)
class Rates:
    """Of one core.

    Attributes
    ----------
    flops_per_s : float
        Multiplications and additions, in float32 matrix products of numpy and torch, and convolutions.
    bytes_per_s : float
        Read from an array as large as the operators of an evaluation, again and again.
    """

    flops_per_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class Stage:
    """What one part of an evaluation has to do at least."""

    flops: float
    read_bytes: float

    def seconds(self, rates: Rates) -> float:
        """Return the time that the slower of arithmetic and memory takes."""
        return max(self.flops / rates.flops_per_s, self.read_bytes / rates.bytes_per_s)


def measure_rates(operators: Operators) -> Rates:
    """Measure one core; the machine should be idle."""
    size = operators.system_matrix.nbytes + operators.weighted_adjoint.nbytes
    content = np.ones(size // BYTES, np.float32)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with single_blas_thread(), torch.inference_mode():
            flops = max(_product_rates())
            read = size / _fastest(lambda: np.dot(content, content))
    finally:
        torch.set_num_threads(threads)
    return Rates(flops, read)


def _product_rates() -> list[float]:
    rates = []
    for size in MATRIX_SIZES:
        a, out = np.ones((size, size), np.float32), np.empty((size, size), np.float32)
        t, t_out = torch.ones(size, size), torch.empty(size, size)
        flops = 2.0 * size**3
        rates.append(flops / _fastest(lambda a=a, out=out: np.dot(a, a, out=out)))  # type: ignore[misc]
        rates.append(flops / _fastest(lambda t=t, o=t_out: torch.mm(t, t, out=o)))  # type: ignore[misc]
    return rates


def _fastest(call: Callable[[], object]) -> float:
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best


def evaluation_stages(bundle: Bundle, operators: Operators) -> Mapping[str, Stage]:
    """Return what an evaluation of h_theta for one frame has to do, by stage."""
    nx, ny, _ = operators.grid.size
    lines, bins = operators.layout.shape
    r, n = operators.system_matrix.shape
    lengths = {"batch": 1, "height": ny, "width": nx, "lines": lines, "bins": bins}
    rdn, lc = (convolution_flops(bundle.networks[role], lengths) for role in ("rdn", "lc"))
    return {
        "rdn": Stage(rdn, 0.0),
        "lc": Stage(lc, 0.0),
        "products": Stage(2.0 * n * (2 * r + n), BYTES * n * (2.0 * r + n)),
    }


def convolution_flops(model: bytes, lengths: Mapping[str, int]) -> float:
    """Return multiplications and additions of a graph's convolutions, for the given lengths of its axes."""
    graph = onnx.load_from_string(model)
    for value in graph.graph.input:
        for axis in value.type.tensor_type.shape.dim:
            if axis.HasField("dim_param"):
                axis.dim_value = lengths[axis.dim_param]
    inferred = shape_inference.infer_shapes(graph, data_prop=True).graph
    shapes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in [*inferred.value_info, *inferred.output, *inferred.input]
    }
    kernels = {weights.name: list(weights.dims) for weights in inferred.initializer}
    total = 0.0
    for node in inferred.node:
        if node.op_type == "Conv":
            _, _, height, width = shapes[node.output[0]]
            if not height * width:
                raise ValueError(f"the shape of {node.output[0]} is not known; expected fixed lengths")
            total += 2.0 * height * width * float(np.prod(kernels[node.input[1]]))
    return total
