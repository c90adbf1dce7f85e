"""Plans on a GPU against ONNX Runtime on the CPU; skipped, with the reason, where one of them is missing."""

import importlib.util
import shutil

import numpy as np
import pytest

from engine.errors import ProviderError
from engine.fixed_point.solve import FixedPointConfig
from engine.networks.axis_ranges import axis_lengths, axis_ranges
from engine.networks.bundle import load_bundle
from engine.networks.sessions import OnnxConsistency, OnnxPrior
from engine.networks.tensorrt.cuda_device import CudaDevice
from engine.reconstruction.reconstructor import Reconstructor
from engine.solvers.deq.equilibrium import Equilibrium
from engine.solvers.deq.on_device import ResidentEquilibrium
from export.parity.half_parity import HALF_TOLERANCE
from export.parity.parity import IMAGE_TOLERANCE, ITERATION_TOLERANCE
from export.parity.parity_problem import parity_problem, synthetic_operators
from export.plans.plan_config import PlanConfig
from export.plans.plans import build_plans
from export.step_file import add_step

FP32_TOLERANCE = 1e-5
"""Sums of a few hundred float32 products through twenty layers, in another order; TF32 would give 1e-3."""


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def flavour(request) -> str:
    """A flavour that is installed, on a machine with a GPU."""
    module = request.param.replace("-", "_")
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"no TensorRT runtime here: the module {module} is not installed")
    try:
        CudaDevice()
    except ProviderError as error:
        pytest.skip(f"no CUDA device here: {error}")
    return request.param


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", FP32_TOLERANCE), ("fp16", HALF_TOLERANCE)])
def test_a_plan_computes_what_its_network_computes(flavour, precision, tolerance, tmp_path) -> None:
    bundle = load_bundle(shutil.copytree(load_bundle().path, tmp_path / "bundle"))
    build_plans(bundle, PlanConfig(flavour=flavour, precision=precision), print)
    rng = np.random.default_rng(6)
    for batch in (1, 7, 2):
        images = rng.random((batch, 1, 13, 26), np.float32)
        noise = rng.uniform(0.01, 0.5, (batch, 1, 1, 1)).astype(np.float32)
        mask = (rng.random((1, 1, 60, 130)) < 0.4).astype(np.float32)
        v, y = mask * rng.standard_normal((2, batch, 2, 60, 130)).astype(np.float32)
        for kind, arrays in ((OnnxPrior, (images, noise)), (OnnxConsistency, (v, y, mask, 30 * noise))):
            expected = kind(bundle, "cpu")(*arrays)
            found = kind(bundle, "tensorrt-native")(*arrays)
            assert found.shape == expected.shape
            np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_solves_through_the_plan_of_a_step_are_those_of_the_cpu(flavour, tmp_path) -> None:
    add_step("reference", tmp_path / "bundle")
    bundle, config = load_bundle(tmp_path / "bundle"), FixedPointConfig()
    problem = parity_problem(synthetic_operators())
    ranges = axis_ranges(axis_lengths(problem.operators))
    build_plans(bundle, PlanConfig(flavour=flavour, ranges=ranges), print)
    blocks, dual_start = (OnnxPrior(bundle), OnnxConsistency(bundle)), bundle.manifest.dual_start
    expected = Equilibrium(problem.operators, *blocks, config, dual_start)
    found = ResidentEquilibrium.of_bundle(bundle, problem.operators, config, "tensorrt-native")
    for frame, sigma in zip(problem.frames, problem.sigmas, strict=True):
        a, b = (Reconstructor(solver).reconstruct(frame, float(sigma)) for solver in (expected, found))
        np.testing.assert_allclose(b.image, a.image, rtol=0, atol=IMAGE_TOLERANCE * a.image.max())
        assert abs(a.report.iterations - b.report.iterations) <= ITERATION_TOLERANCE
