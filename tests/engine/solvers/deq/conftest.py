"""The step of a small bundle in all that runs it."""

from functools import partial
from pathlib import Path

import onnxruntime
import pytest

from engine.networks.bundle import load_bundle
from engine.solvers.deq.onnx_step_runner import OnnxStepRunner

FIXTURE = Path(__file__).parents[3] / "fixtures" / "step-bundle"


@pytest.fixture(scope="session")
def step_bundle():
    return load_bundle(FIXTURE)


needs_cuda = pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="this ONNX Runtime has no CUDA provider; run it on a GPU with deq-mpi[gpu]",
)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=needs_cuda)])
def provider(request):
    """Everything that runs a step: on the host, and on a GPU."""
    return request.param


@pytest.fixture
def runnable_bundle(step_bundle):
    """Return the bundle with all that the provider needs: runnable_bundle(operators)."""
    return lambda _operators: step_bundle


@pytest.fixture
def open_step(provider, step_bundle):
    """Open the step in what runs it: open_step(operators, n_slots)."""
    return partial(OnnxStepRunner, step_bundle.read_network("step"), provider)
