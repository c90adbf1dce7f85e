"""One evaluation of the accelerated iteration of the method deq as a single ONNX graph, `step.onnx`.

The graph is composed of the very `rdn.onnx` and `lc.onnx` of a bundle, so it needs neither the run they came
from nor a system matrix: the operators are inputs, bound once (`engine.solvers.deq.step_runner`). Mixing of
the history, h_theta (Eqs. 15-17), residual, norms and inner products all happen inside. No control flow, no
data-dependent shapes: the graph can be captured as a CUDA graph and parsed by TensorRT.
"""

import numpy as np
import onnx

from engine.networks.manifest import INTERFACE, NOISE_INPUT
from export.errors import ExportError
from export.graphs.graph_composer import GraphComposer
from export.graphs.onnx_graphs import ALLOWED_OPS, Axes, check_operators

STEP_OPS = ALLOWED_OPS | {"Gather", "Gemm", "MatMul", "Split"}
"""Operators the step may use: those of the networks, products, and moving rows to the dense layout and back.
Scatter is not among them: gathering with the inverse index does the same and is deterministic everywhere."""

SCALAR = (1, 1, 1, 1)

INPUTS: dict[str, tuple[str, Axes]] = {
    "weights": ("float32", (2, "slots")),
    "damping": ("float32", (1, 1)),
    "images": ("float32", ("slots", 4, "voxels")),
    "data": ("float32", ("slots", 4, "rows")),
    "system_matrix": ("float32", ("rows", "voxels")),
    "weighted_adjoint": ("float32", ("voxels", "rows")),
    "inverse": ("float32", ("voxels", "voxels")),
    "voxel_grid": ("int64", (1, 1, "height", "width")),
    "row_places": ("int64", (1, 2, "lines", "bins")),
    "selected_places": ("int64", ("rows",)),
    "y": ("float32", (1, 2, "lines", "bins")),
    "mask": ("float32", (1, 1, "lines", "bins")),
    "epsilon": ("float32", SCALAR),
    "noise": ("float32", SCALAR),
}
"""Type and axes of every input; what each holds is said in `build_step`."""

OUTPUTS: dict[str, Axes] = {"next_image": (4, "voxels"), "next_data": (4, "rows"), "report": (1, "report")}
"""Axes of every output, float32; "report" is "slots" + 2."""

FLAT = "flat"
ROW = "row"
PER_SLOT = "per_slot"
FOUR_ROWS = "four_rows"
ALL_AXES = "all_axes"


def build_step(rdn: onnx.ModelProto, lc: onnx.ModelProto) -> onnx.ModelProto:
    """Compose the step of two networks.

    A slot holds a value f = (x, d0, d1, A x) and its residual g = f - z: `images` the rows x, d1 of f, then
    of g, and `data` the rows d0, A x of f, then of g. With the weights a = base + shares, base one of the
    unit vectors, the graph evaluates h_theta at

        z = f_base + sum_i shares_i (f_i - f_base) - damping sum_i a_i g_i

    and returns value and residual of z as the rows of a new slot (`next_image`, `next_data`), and in `report`
    the inner products <g, g_i> with the residuals of all slots, ||g||^2 and ||f||^2, over (x, d0, d1).

    Inputs: `weights` = [base; shares]; `damping` = 1 - beta; `system_matrix` A, `weighted_adjoint` M A^T,
    `inverse` M; `voxel_grid`, the voxel at each place of the image; `row_places`, the row at each place of
    the dense layout (any where none is); `selected_places`, the place of each row; `y`, `mask`, `epsilon` and
    `noise` as the networks take them.

    Parameters
    ----------
    rdn : onnx.ModelProto
        Psi_RDN, with or without the input `noise`.
    lc : onnx.ModelProto
        Psi_LC.

    Returns
    -------
    onnx.ModelProto
        Not yet checked: see `check_step`.
    """
    g = GraphComposer()
    g.constant(FLAT, np.array([-1], np.int64))
    g.constant(ROW, np.array([1, -1], np.int64))
    g.constant(PER_SLOT, np.array([0, -1], np.int64))
    g.constant(FOUR_ROWS, np.array([4, -1], np.int64))
    g.constant(ALL_AXES, np.array([0, 1], np.int64))
    base, shares = g.split("weights", 2)
    image_point = _mixture(g, "images", base, shares)
    data_point = _mixture(g, "data", base, shares)
    x, d1 = g.split(image_point, 2)
    d0, projection = g.split(data_point, 2)

    z0 = _consistent_data(g, lc, g.node("Sub", projection, d0))  # Eq. (15)
    z1 = _regularised_image(g, rdn, g.node("Sub", x, d1))  # Eq. (16)

    # Eq. (17) as in `engine.solvers.deq.admm_step`: d0 + z0 and d1 + z1 appear in the image and in the duals.
    data, image = g.node("Add", d0, z0), g.node("Add", d1, z1)
    x_next = g.node("Gemm", image, "inverse", g.node("Gemm", data, "weighted_adjoint", transB=1), transB=1)
    projection_next = g.node("Gemm", x_next, "system_matrix", transB=1)
    image_value = g.node("Concat", x_next, g.node("Sub", image, x_next), axis=0)
    data_value = g.node("Concat", g.node("Sub", data, projection_next), projection_next, axis=0)

    image_residual = g.node("Sub", image_value, image_point)
    data_residual = g.node("Sub", data_value, data_point)
    g.node("Concat", image_value, image_residual, axis=0, output="next_image")
    g.node("Concat", data_value, data_residual, axis=0, output="next_data")
    _report(g, (image_value, data_value), (image_residual, data_residual))
    return g.model("step", INPUTS, OUTPUTS)


def check_step(model: onnx.ModelProto) -> None:
    """Check that the graph is valid ONNX, of the operators `STEP_OPS` only, with the engine's interface.

    Raises
    ------
    ExportError
        Naming what was found and what was expected.
    """
    check_operators(model, STEP_OPS)
    found = (
        tuple(value.name for value in model.graph.input),
        tuple(value.name for value in model.graph.output),
    )
    if found != INTERFACE["step"]:
        raise ExportError(
            f"the step has inputs {found[0]} and outputs {found[1]}; expected {INTERFACE['step']}: "
            "compose it with build_step"
        )


def _mixture(g: GraphComposer, store: str, base: str, shares: str) -> str:
    """Return the two rows of z that a store of slots (slots, 4, n) has, as (2, n)."""
    slots = g.node("Reshape", store, PER_SLOT)
    base_slot = g.node("MatMul", base, slots)
    deviation = g.node("MatMul", shares, g.node("Sub", slots, base_slot))
    values, residuals = g.split(g.node("Reshape", g.node("Add", base_slot, deviation), FOUR_ROWS), 2)
    return g.node("Sub", values, g.node("Mul", residuals, "damping"))


def _consistent_data(g: GraphComposer, lc: onnx.ModelProto, rows: str) -> str:
    picked = g.node("Gather", g.node("Reshape", rows, FLAT), "row_places")
    dense = g.node("Mul", picked, "mask")
    inputs = {"v": dense, "y": "y", "mask": "mask", "epsilon": "epsilon"}
    z0 = g.node("Reshape", g.inline("lc/", lc, inputs), FLAT)
    return g.node("Reshape", g.node("Gather", z0, "selected_places"), ROW)


def _regularised_image(g: GraphComposer, rdn: onnx.ModelProto, voxels: str) -> str:
    inputs = {"v": g.node("Gather", g.node("Reshape", voxels, FLAT), "voxel_grid")}
    if NOISE_INPUT in {value.name for value in rdn.graph.input}:
        inputs[NOISE_INPUT] = "noise"
    # The places of an image are its voxels in order, so no index is needed on the way back.
    return g.node("Reshape", g.inline("rdn/", rdn, inputs), ROW)


def _report(g: GraphComposer, value: tuple[str, str], residual: tuple[str, str]) -> None:
    """Add the output `report`; A x, the second row of the data, takes no part in it."""
    (image_value, data_value), (image_residual, data_residual) = value, residual
    d0_value, d0_residual = g.split(data_value, 2)[0], g.split(data_residual, 2)[0]
    image_residuals = g.node("Gather", "images", g.constant("rows_2_3", np.array([2, 3], np.int64)), axis=1)
    data_residuals = g.node("Gather", "data", g.constant("row_2", np.array(2, np.int64)), axis=1)
    flat_residuals = g.node("Reshape", image_residuals, PER_SLOT)
    of_images = g.node("Gemm", g.node("Reshape", image_residual, ROW), flat_residuals, transB=1)
    products = g.node("Gemm", d0_residual, data_residuals, of_images, transB=1)
    squared = [
        g.node("Add", _sum_of_squares(g, image), _sum_of_squares(g, d0))
        for image, d0 in ((image_residual, d0_residual), (image_value, d0_value))
    ]
    g.node("Concat", products, *squared, axis=1, output="report")


def _sum_of_squares(g: GraphComposer, value: str) -> str:
    return g.node("ReduceSum", g.node("Mul", value, value), ALL_AXES, keepdims=1)
