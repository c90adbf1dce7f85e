"""The step of a small bundle in all that runs it: ONNX Runtime, and a stand-in of TensorRT."""

import hashlib
import shutil
from pathlib import Path

import onnxruntime
import pytest

from engine.networks.axis_ranges import axis_lengths, axis_ranges, shape_range
from engine.networks.bundle import load_bundle
from engine.networks.tensorrt.plan_metadata import PlanInput, PlanMetadata, PlanRecipe
from engine.solvers.deq.onnx_step_runner import OnnxStepRunner
from engine.solvers.deq.plan_step_runner import PlanStepRunner

FIXTURE = Path(__file__).parents[3] / "fixtures" / "step-bundle"

PLAN = b"a plan"

INDICES = ("voxel_grid", "row_places", "selected_places")
"""Inputs of a step that are integers."""


@pytest.fixture(scope="session")
def step_bundle():
    return load_bundle(FIXTURE)


@pytest.fixture
def planned_bundle(step_bundle, make_engine, install_tensorrt, tmp_path):
    """Copy the bundle with a plan of its step: planned_bundle(operators).

    The plan runs in a stand-in of TensorRT, which computes what it says with ONNX Runtime.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        step_bundle.networks["step"], options, providers=["CPUExecutionProvider"]
    )
    network = step_bundle.manifest.networks["step"]
    outputs = {
        "next_image": lambda shapes: shapes["images"][1:],
        "next_data": lambda shapes: shapes["data"][1:],
        "report": lambda shapes: (1, shapes["weights"][1] + 2),
    }
    engine = make_engine(
        compute=lambda arrays: dict(zip(outputs, session.run(list(outputs), arrays), strict=True)),
        inputs=tuple(network.inputs),
        outputs=outputs,
        dtypes=dict.fromkeys(INDICES, "int64"),
    )
    install_tensorrt(engine)

    def plan(operators):
        ranges = axis_ranges(axis_lengths(operators))
        shapes = {name: shape_range(name, axes, ranges) for name, axes in network.inputs.items()}
        recipe = PlanRecipe(
            network="step",
            flavour="tensorrt",
            tensorrt_version="11.4.0.106",
            compute_capabilities=("8.9",),
            onnx_sha256=network.sha256,
            graph_sha256=network.sha256,
            precision="fp32",
            optimization_level=3,
            workspace_bytes=1 << 20,
            inputs={
                name: PlanInput(network.inputs[name], shape.minimum, shape.optimum, shape.maximum)
                for name, shape in shapes.items()
            },
            outputs=network.outputs,
        )
        dtypes = dict.fromkeys((*network.inputs, *network.outputs), "float32")
        dtypes |= dict.fromkeys(INDICES, "int64")
        folder = Path(shutil.copytree(FIXTURE, tmp_path / "planned", dirs_exist_ok=True))
        (folder / "step.plan").write_bytes(PLAN)
        metadata = PlanMetadata(recipe, hashlib.sha256(PLAN).hexdigest(), dtypes, None)
        (folder / "step.plan.json").write_text(metadata.to_json())
        return load_bundle(folder)

    return plan


needs_cuda = pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="this ONNX Runtime has no CUDA provider; run it on a GPU with deq-mpi[gpu]",
)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=needs_cuda), "tensorrt-native"])
def provider(request):
    """Everything that runs a step: on the host, on a GPU, and in the stand-in of TensorRT."""
    return request.param


@pytest.fixture
def runnable_bundle(provider, step_bundle, request):
    """Return the bundle with all that the provider needs: runnable_bundle(operators)."""
    if provider == "tensorrt-native":
        return request.getfixturevalue("planned_bundle")
    return lambda _operators: step_bundle


@pytest.fixture
def open_step(provider, runnable_bundle):
    """Open the step in what runs it: open_step(operators, n_slots)."""

    def open_in(operators, n_slots):
        bundle = runnable_bundle(operators)
        if provider == "tensorrt-native":
            return PlanStepRunner(bundle, operators, n_slots)
        return OnnxStepRunner(bundle.networks["step"], provider, operators, n_slots)

    return open_in
