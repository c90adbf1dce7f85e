"""The step of a bundle: composed of its networks, right at any size, and written with them or not at all."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner

from engine.errors import BundleError, NonFiniteError
from engine.fixed_point.solve import FixedPointConfig
from engine.networks.bundle import load_bundle
from engine.networks.sessions import OnnxConsistency, OnnxPrior
from engine.reconstruction.reconstructor import Reconstructor
from engine.solvers.deq.equilibrium import Equilibrium
from engine.solvers.deq.on_device import ResidentEquilibrium
from export import step_file
from export.bundle import export_networks
from export.cli import main
from export.errors import ExportError, ParityError
from export.graphs.step_graph import STEP_OPS, build_step, check_step
from export.parity.learned_blocks import LearnedBlocks
from export.parity.parity_problem import ParityProblem, parity_problem, synthetic_operators
from export.parity.step_parity import StepParityReport, measure_step_parity
from export.step_file import add_step
from trainer.networks.consistency import LearnedConsistency
from trainer.networks.rdn import ResidualDenseNetwork

CONTROL_FLOW = {"If", "Loop", "Scan"}

HOST_OPS = {"Shape", "Size", "ConstantOfShape", "NonZero", "Range"}
"""Operators whose result the runtime keeps on the host: one of them among kernels stops a CUDA graph."""

IMAGE_TOLERANCE = 1e-3
"""Relative to the peak: Anderson weights amplify float32 rounding, 1e-5 seen after 25 evaluations."""


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def stepped(bundle_dir, tmp_path_factory) -> Path:
    """The small bundle with its step; tests must not change it."""
    path = tmp_path_factory.mktemp("bundles") / "stepped"
    add_step(bundle_dir, path)
    return path


@pytest.fixture(scope="module")
def networks(bundle_dir):
    return onnx.load(bundle_dir / "rdn.onnx"), onnx.load(bundle_dir / "lc.onnx")


@pytest.fixture(scope="module")
def problem():
    return parity_problem(synthetic_operators())


def test_the_step_is_added_and_the_rest_stays(bundle_dir, stepped) -> None:
    before, after = load_bundle(bundle_dir), load_bundle(stepped)
    names = {entry.name for entry in stepped.iterdir()}
    assert names == {"manifest.json", "rdn.onnx", "lc.onnx", "step.onnx"}
    for role in ("rdn", "lc"):
        assert after.networks[role] == before.networks[role]
    found, expected = (bundle.manifest.to_dict() for bundle in (after, before))
    del found["networks"]["step"]
    parity = found["training"].pop("step_parity")
    assert found == expected
    assert parity.keys() == {"evaluation", "image", "iterations"}
    assert len(parity["iterations"]) == 3


def test_the_graph_holds_allowed_operators_only(stepped) -> None:
    model = onnx.load(stepped / "step.onnx")
    operators = {node.op_type for node in model.graph.node}
    assert operators <= STEP_OPS
    assert not STEP_OPS & CONTROL_FLOW
    check_step(model)


def test_equal_networks_give_equal_bytes(networks, stepped) -> None:
    assert build_step(*networks).SerializeToString(deterministic=True) == (stepped / "step.onnx").read_bytes()


def test_for_known_lengths_nothing_is_left_to_the_host(tmp_path) -> None:
    """Of the networks that ship, which take the noise level: their shapes fold away, so a GPU runs it all."""
    bundle = load_bundle()
    rdn, lc = (onnx.load_model_from_string(bundle.networks[role]) for role in ("rdn", "lc"))
    assert "Shape" in {node.op_type for node in rdn.graph.node}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    options.log_severity_level = 3
    lengths = {
        "slots": 7,
        "report": 9,
        "rows": 40,
        "voxels": 30,
        "height": 5,
        "width": 6,
        "lines": 5,
        "bins": 8,
    }
    for axis, length in lengths.items():
        options.add_free_dimension_override_by_name(axis, length)
    graph = build_step(rdn, lc).SerializeToString()
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    folded = onnx.load(tmp_path / "folded.onnx")
    assert not {node.op_type for node in folded.graph.node} & HOST_OPS


@pytest.mark.parametrize("memory", [0, 5])
def test_whole_solves_are_those_of_the_engine(stepped, problem, memory) -> None:
    bundle, config = load_bundle(stepped), FixedPointConfig(memory=memory)
    expected = Equilibrium(problem.operators, OnnxPrior(bundle), OnnxConsistency(bundle), config)
    found = ResidentEquilibrium.of_bundle(bundle, problem.operators, config, "cpu")
    for frame, sigma in zip(problem.frames, problem.sigmas, strict=True):
        a, b = (Reconstructor(solver).reconstruct(frame, sigma) for solver in (expected, found))
        np.testing.assert_allclose(b.image, a.image, rtol=0, atol=IMAGE_TOLERANCE * a.image.max())
        assert a.image.any()
        assert abs(a.report.iterations - b.report.iterations) <= 1


def test_networks_that_take_the_noise_level(tmp_path) -> None:
    rdn = ResidualDenseNetwork(8, 4, 1, 2, takes_noise=True)
    lc = LearnedConsistency(takes_noise=True)
    export_networks(rdn, lc, tmp_path / "plain", name="noise")
    report = add_step(tmp_path / "plain", tmp_path / "stepped")
    report.require()
    assert load_bundle(tmp_path / "stepped").manifest.networks["rdn"].takes_noise


def test_a_bundle_may_be_its_own_target_and_keeps_what_it_has(stepped, tmp_path) -> None:
    folder = Path(shutil.copytree(stepped, tmp_path / "bundle"))
    graph = (folder / "step.onnx").read_bytes()
    add_step(folder, folder)
    assert (folder / "step.onnx").read_bytes() == graph
    assert {entry.name for entry in folder.iterdir()} == {entry.name for entry in stepped.iterdir()}
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_intervals_stay_those_of_the_networks(tmp_path) -> None:
    add_step("reference", tmp_path / "bundle")
    shipped, found = load_bundle("reference"), load_bundle(tmp_path / "bundle")
    assert shipped.intervals is not None
    assert found.intervals.to_dict() == shipped.intervals.to_dict()


OPPOSITE = {"Sub": "Add", "Add": "Sub"}


def own_sums(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The additions and subtractions of the step itself, without those inside the networks."""
    nodes = [node for node in model.graph.node if not node.output[0].startswith(("rdn/", "lc/"))]
    # Shares sum to 0: it makes no difference whether they mix f_i - f_base or f_i + f_base.
    mixed = {node.input[1] for node in nodes if node.op_type == "MatMul"}
    return [node for node in nodes if node.op_type in OPPOSITE and node.output[0] not in mixed]


def test_every_wrong_sign_in_the_step_is_found(bundle_dir, networks, problem) -> None:
    bundle = load_bundle(bundle_dir)
    blocks, config = LearnedBlocks.of_bundle(bundle), FixedPointConfig(max_iterations=2)
    one_frame = ParityProblem(problem.operators, problem.frames[:1], problem.sigmas[:1])
    count = len(own_sums(build_step(*networks)))
    assert count == 14
    for position in range(count):
        model = build_step(*networks)
        node = own_sums(model)[position]
        node.op_type = OPPOSITE[node.op_type]
        with pytest.raises((ParityError, NonFiniteError)):
            measure_step_parity(model.SerializeToString(), blocks, one_frame, config, 0.0).require()


def test_a_graph_that_computes_something_else_is_not_written(bundle_dir, tmp_path, monkeypatch) -> None:
    def wrong_sign(rdn, lc):
        model = build_step(rdn, lc)
        node = own_sums(model)[0]
        node.op_type = OPPOSITE[node.op_type]
        return model

    monkeypatch.setattr(step_file, "build_step", wrong_sign)
    with pytest.raises(ParityError, match="the step graph differs from the engine's iteration: evaluation"):
        add_step(bundle_dir, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("evaluation", "image", "iterations"),
    [(np.nan, 0.0, (3, 3)), (0.1, 0.0, (3, 3)), (0.0, 0.1, (3, 3)), (0.0, 0.0, (3, 5))],
)
def test_a_report_outside_its_limits_is_an_error(evaluation, image, iterations) -> None:
    with pytest.raises(ParityError, match="no step was written"):
        StepParityReport(evaluation, image, (iterations,)).require()


def test_parity_needs_a_frame_and_both_networks(stepped, problem) -> None:
    bundle = load_bundle(stepped)
    graph, blocks, config = bundle.networks["step"], LearnedBlocks.of_bundle(bundle), FixedPointConfig()
    none = ParityProblem(problem.operators, problem.frames[:0], problem.sigmas[:0])
    with pytest.raises(ParityError, match="no frame was compared"):
        measure_step_parity(graph, blocks, none, config, 0.0)
    with pytest.raises(ExportError, match="no data consistency"):
        measure_step_parity(graph, LearnedBlocks(blocks.prior, None), problem, config, 0.0)


def test_a_graph_with_other_inputs_or_operators_is_refused(networks) -> None:
    with pytest.raises(ExportError, match="the step has inputs"):
        check_step(networks[0])
    model = build_step(*networks)
    model.graph.node[-1].op_type = "Max"
    del model.graph.node[-1].attribute[:]
    with pytest.raises(ExportError, match=r"the graph uses Max|not valid ONNX"):
        check_step(model)


def test_other_methods_have_no_step(tmp_path) -> None:
    with pytest.raises(BundleError, match="is of method pp-mpi; expected deq"):
        add_step("denoiser", tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_the_command_adds_a_step(bundle_dir, tmp_path) -> None:
    result = run("add-step", bundle_dir, tmp_path / "bundle")
    assert result.exit_code == 0, result.output
    assert "the step and the engine agree: one evaluation within" in result.output
    assert f"wrote {tmp_path / 'bundle' / 'step.onnx'}" in result.output
    assert "step" in load_bundle(tmp_path / "bundle").manifest.networks


def test_a_run_is_exported_with_its_step(run_dir, system_matrix, tmp_path) -> None:
    """The operators of the system matrix, which have another shape, serve the check of the step too."""
    result = run(run_dir, tmp_path / "bundle", "--step", "--system-matrix", system_matrix)
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert manifest["networks"].keys() == {"rdn", "lc", "step"}
    assert manifest["training"].keys() >= {"parity", "step_parity", "config"}
    assert (tmp_path / "bundle" / "operators.h5").is_file()


def test_a_missing_bundle_is_bad_input(tmp_path) -> None:
    result = run("add-step", tmp_path / "absent", tmp_path / "bundle")
    assert result.exit_code == 2
    assert "is not a model bundle" in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_denoiser_has_no_step(run_dir, tmp_path) -> None:
    result = run(run_dir, tmp_path / "bundle", "--denoiser", "--step")
    assert result.exit_code == 2
    assert "have no meaning with --denoiser" in result.output
