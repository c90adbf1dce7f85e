"""Real builds of plans with TensorRT for RTX, which needs no GPU to build; and when to build again."""

import hashlib
import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from engine.errors import ConfigError, InputError, ProviderError
from engine.networks.axis_ranges import AxisRange, axis_ranges
from engine.networks.bundle import MANIFEST, Network, load_bundle
from engine.networks.tensorrt.plan_metadata import PlanMetadata, plan_path, read_plan
from export.cli import main
from export.errors import ExportError
from export.plans.plan_builder import PlanBuilder
from export.plans.plan_config import PlanConfig
from export.plans.plans import build_plans
from export.plans.timing_cache import TimingCache

needs_builder = pytest.mark.skipif(
    "not __import__('importlib').util.find_spec('tensorrt_rtx')",
    reason="tensorrt-rtx, the builder that needs no GPU, is not installed: pip install 'deq-mpi[plans]'",
)

RTX = PlanConfig(
    flavour="tensorrt-rtx",
    compute_capabilities=("8.9",),
    ranges=axis_ranges({"height": 5, "width": 6, "lines": 4, "bins": 7}, AxisRange(1, 2, 3)),
)


@pytest.fixture
def bundle(bundle_dir, tmp_path):
    """A copy of the small bundle, to which plans may be added."""
    return load_bundle(shutil.copytree(bundle_dir, tmp_path / "bundle"))


def build(bundle, config=RTX):
    """Build the plans; return the results and what was said."""
    said = []
    return build_plans(bundle, config, said.append), said


@needs_builder
def test_plans_and_their_metadata_are_written_next_to_the_networks(bundle) -> None:
    results, said = build(bundle)
    assert [result.path.name for result in results] == ["rdn.plan", "lc.plan"]
    assert all(result.built for result in results)
    assert all("may take minutes: there is none yet" in line for line in said)
    for role, network in bundle.manifest.networks.items():
        path = plan_path(bundle.path, network)
        plan, metadata = read_plan(path)
        assert len(plan) > 10_000
        assert metadata.plan_sha256 == hashlib.sha256(plan).hexdigest()
        recipe = metadata.recipe
        recipe.require_network(role, network)
        assert recipe.onnx_sha256 == recipe.graph_sha256 == network.sha256
        assert (recipe.flavour, recipe.compute_capabilities) == ("tensorrt-rtx", ("8.9",))
        assert recipe.tensorrt_version == sys.modules["tensorrt_rtx"].__version__
        assert (recipe.precision, metadata.fp16_difference) == ("fp32", None)
    profile = read_plan(bundle.path / "lc.plan")[1].recipe.inputs
    assert profile["v"].minimum == (1, 2, 4, 7)
    assert profile["y"].optimum == (2, 2, 4, 7)
    assert profile["epsilon"].maximum == (3, 1, 1, 1)
    assert profile["mask"].minimum == profile["mask"].maximum == (1, 1, 4, 7)
    load_bundle(bundle.path)  # is still one


@needs_builder
def test_plans_that_match_stay(bundle) -> None:
    first, _ = build(bundle)
    times = [result.path.stat().st_mtime_ns for result in first]
    second, said = build(bundle)
    assert [result.built for result in second] == [False, False]
    assert [result.path.stat().st_mtime_ns for result in second] == times
    assert [result.metadata for result in second] == [result.metadata for result in first]
    assert all("up to date" in line for line in said)


@needs_builder
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"compute_capabilities": ("8.6",)}, "compute_capabilities"),
        ({"optimization_level": 2}, "optimization_level"),
        ({"workspace_bytes": 1 << 25}, "workspace_bytes"),
        (
            {"ranges": dict(RTX.ranges) | {"height": AxisRange.fixed(6), "lines": AxisRange.fixed(5)}},
            "inputs",
        ),
    ],
)
def test_another_choice_builds_again_and_says_why(bundle, change, named) -> None:
    build(bundle)
    results, said = build(bundle, replace(RTX, **change))
    assert [result.built for result in results] == [True, True]
    assert all(line.endswith(f"the one that is there has another {named}") for line in said)


@needs_builder
def test_a_plan_of_another_version_is_built_again(bundle) -> None:
    build(bundle)
    file = bundle.path / "rdn.plan.json"
    metadata = PlanMetadata.from_json(file.read_text())
    file.write_text(replace(metadata, recipe=replace(metadata.recipe, tensorrt_version="1.4.0.76")).to_json())
    results, said = build(bundle)
    assert [result.built for result in results] == [True, False]
    assert said[0].endswith("another tensorrt_version")


@needs_builder
def test_another_network_needs_another_plan(bundle) -> None:
    """Same graph, other bytes: only the hash tells them apart."""
    build(bundle)
    import onnx

    model = onnx.load(bundle.path / "rdn.onnx")
    model.producer_version = "other"
    content = model.SerializeToString()
    (bundle.path / "rdn.onnx").write_bytes(content)
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    manifest["networks"]["rdn"]["sha256"] = hashlib.sha256(content).hexdigest()
    (bundle.path / MANIFEST).write_text(json.dumps(manifest))
    results, said = build(load_bundle(bundle.path))
    assert [result.built for result in results] == [True, False]
    assert said[0].endswith("another onnx_sha256, graph_sha256")


@needs_builder
@pytest.mark.parametrize("damage", ["plan", "json", "missing"])
def test_a_damaged_plan_is_built_again(bundle, damage) -> None:
    build(bundle)
    if damage == "missing":
        (bundle.path / "lc.plan.json").unlink()
    else:
        (bundle.path / {"plan": "lc.plan", "json": "lc.plan.json"}[damage]).write_bytes(b"{")
    results, said = build(bundle)
    assert [result.built for result in results] == [False, True]
    assert said[1].endswith("the one that is there is damaged or of another schema")


@needs_builder
def test_half_precision_is_measured_and_recorded(bundle) -> None:
    single, _ = build(bundle)
    sizes = [result.path.stat().st_size for result in single]
    results, said = build(bundle, replace(RTX, precision="fp16"))
    for result, network in zip(results, bundle.manifest.networks.values(), strict=True):
        recipe = result.metadata.recipe
        assert recipe.precision == "fp16"
        assert recipe.onnx_sha256 == network.sha256 != recipe.graph_sha256
        assert 0 < result.metadata.fp16_difference < 5e-3
    assert [result.path.stat().st_size for result in results] != sizes
    assert "rdn.onnx in half precision differs by" in said[0]


@needs_builder
def test_one_plan_for_several_gpus(bundle) -> None:
    config = replace(RTX, compute_capabilities=("8.6", "8.9"))
    results, _ = build(bundle, config)
    assert results[0].metadata.recipe.compute_capabilities == ("8.6", "8.9")
    results[0].metadata.recipe.require_device("8.6")
    with pytest.raises(
        ProviderError, match=r"built for GPUs of compute capability 8.6, 8.9; this one has 9.0"
    ):
        results[0].metadata.recipe.require_device("9.0")


@needs_builder
def test_the_shipped_networks_build_at_the_default_sizes(tmp_path) -> None:
    folder = shutil.copytree(load_bundle().path, tmp_path / "reference")
    config = PlanConfig(flavour="tensorrt-rtx", compute_capabilities=("8.9",))
    results, _ = build(load_bundle(folder), config)
    assert results[0].metadata.recipe.inputs["v"].maximum == (64, 1, 13, 26)
    assert results[1].metadata.recipe.inputs["v"].optimum == (1, 2, 60, 130)


def step_like(bundle):
    """The bundle with a network of other axes, index inputs and two outputs besides."""
    from onnx import TensorProto, helper

    inputs = {
        "images": ("slots", "voxels"),
        "matrix": ("rows", "voxels"),
        "places": ("rows",),
        "epsilon": (1, 1),
    }
    outputs = {"next": ("slots", "rows"), "report": ("slots", 1)}
    nodes = [
        helper.make_node("Gemm", ["images", "matrix"], ["data"], transB=1),
        helper.make_node("Gather", ["data", "places"], ["moved"], axis=1),
        helper.make_node("Mul", ["moved", "epsilon"], ["next"]),
        helper.make_node("ReduceSum", ["next"], ["total"], keepdims=1),
        helper.make_node("ReduceMax", ["images", "axes"], ["largest"], keepdims=1),
        helper.make_node("Add", ["total", "largest"], ["report"]),
    ]
    values = [
        [
            helper.make_tensor_value_info(
                name, TensorProto.INT64 if name == "places" else TensorProto.FLOAT, list(axes)
            )
            for name, axes in group.items()
        ]
        for group in (inputs, outputs)
    ]
    graph = helper.make_graph(
        nodes, "step", *values, [helper.make_tensor("axes", TensorProto.INT64, [1], [1])]
    )
    content = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    ).SerializeToString()
    (bundle.path / "step.onnx").write_bytes(content)
    step = Network("step.onnx", hashlib.sha256(content).hexdigest(), inputs, outputs)
    manifest = replace(bundle.manifest, networks={"step": step})
    return replace(bundle, manifest=manifest, networks={"step": content})


@needs_builder
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_network_of_any_axes_types_and_outputs_builds(bundle, precision) -> None:
    sizes = {"voxels": AxisRange.fixed(12), "rows": AxisRange.fixed(8), "slots": AxisRange(2, 6, 6)}
    ((result,), _) = build(step_like(bundle), replace(RTX, ranges=sizes, precision=precision))
    assert result.path.name == "step.plan"
    assert result.metadata.recipe.inputs["images"].minimum == (2, 12)
    assert result.metadata.recipe.outputs == {"next": ("slots", "rows"), "report": ("slots", 1)}
    floats = dict.fromkeys(("images", "matrix", "epsilon", "next", "report"), "float32")
    assert result.metadata.dtypes == floats | {"places": "int64"}
    assert PlanMetadata.from_json(result.metadata.to_json()) == result.metadata


@needs_builder
def test_a_broken_graph_is_one_line_and_writes_nothing(bundle) -> None:
    builder = PlanBuilder.open(RTX)
    recipe = build(bundle)[0][0].metadata.recipe
    for graph in (b"no graph", (bundle.path / "rdn.onnx").read_bytes()[:5000]):
        with pytest.raises(ExportError, match="tensorrt_rtx cannot read the graph") as raised:
            builder.build(graph, recipe)
        assert "\n" not in str(raised.value)


@needs_builder
def test_a_graph_with_an_unknown_operator_names_it(bundle) -> None:
    from onnx import TensorProto, helper

    shape = ["batch", 1, "height", "width"]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "vz"]
    node = helper.make_node("Unheard", ["v"], ["z"], domain="nowhere")
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("nowhere", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    recipe = build(bundle)[0][0].metadata.recipe
    with pytest.raises(ExportError, match=r"cannot read the graph: node 0 Unheard"):
        PlanBuilder.open(RTX).build(model.SerializeToString(), recipe)


@needs_builder
def test_a_graph_of_another_interface_is_refused(bundle) -> None:
    rdn = build(bundle)[0][0].metadata.recipe
    with pytest.raises(ExportError, match=r"the graph has the inputs .*'mask'.*; expected \{'v': \(-1, 1"):
        PlanBuilder.open(RTX).build((bundle.path / "lc.onnx").read_bytes(), rdn)


@needs_builder
def test_an_axis_without_length_is_bad_input(bundle) -> None:
    with pytest.raises(ConfigError, match="input v has the axes bins, lines without a length"):
        build(bundle, replace(RTX, ranges=axis_ranges({"height": 5, "width": 6})))


@needs_builder
def test_a_gpu_that_the_builder_does_not_know(bundle) -> None:
    with pytest.raises(ConfigError, match=r"compute capability is 9.0; tensorrt_rtx .* builds for .*8.9"):
        build(bundle, replace(RTX, compute_capabilities=("9.0",)))
    assert not (bundle.path / "rdn.plan").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"flavour": "trt"}, "flavour is 'trt'"),
        ({"precision": "int8"}, "precision is 'int8'"),
        ({"compute_capabilities": ("89",)}, "expected MAJOR.MINOR"),
        ({"compute_capabilities": ("8.9", "9.0")}, "expected none or one"),
        ({"optimization_level": 6}, "expected 0 to 5"),
        ({"workspace_bytes": 0}, "expected a positive number"),
        ({"flavour": "tensorrt-rtx", "timing_cache": "x"}, "timing_cache has no meaning"),
    ],
)
def test_impossible_choices(values, words) -> None:
    with pytest.raises(ConfigError, match=words):
        PlanConfig(**values)


class FakeConfig:
    """The part of a builder configuration that the flavour tensorrt touches."""

    def __init__(self, content=b"measured", accepts=True):
        self.content, self.accepts, self.given, self.flags = content, accepts, None, {"TF32"}
        self.clear_flag = self.flags.discard
        self.limits = {}
        self.set_memory_pool_limit = self.limits.__setitem__

    def create_timing_cache(self, content):
        return content

    def set_timing_cache(self, cache, ignore_mismatch):
        self.given = cache
        return self.accepts and not ignore_mismatch

    def get_timing_cache(self):
        return SimpleNamespace(serialize=lambda: self.content)

    def add_optimization_profile(self, profile):
        self.profile = profile
        return 0


def test_a_timing_cache_is_read_and_replaced(tmp_path) -> None:
    cache = TimingCache(tmp_path / "times.cache")
    first = FakeConfig(b"one")
    cache.attach(first)
    assert first.given == b""
    cache.save(first)
    second = FakeConfig(b"two")
    cache.attach(second)
    assert second.given == b"one"
    cache.save(second)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"times.cache": b"two"}


def test_without_a_file_the_times_are_kept_in_the_users_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setattr("pathlib.Path.home", lambda: tmp_path)
    cache = TimingCache.of_user("11.4.0.106", "9.0")
    assert cache.path == tmp_path / ".cache" / "deq-mpi" / "tensorrt" / "timing-11.4.0.106-9.0.cache"
    cache.save(FakeConfig(b"measured"))
    assert cache.path.read_bytes() == b"measured"


def test_times_of_another_gpu_are_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="not a timing cache of this TensorRT and GPU"):
        TimingCache(tmp_path / "times.cache").attach(FakeConfig(accepts=False))


class FakeTensorRt:
    """A builder of the flavour tensorrt, as far as `PlanBuilder` uses it: remembers what it was told."""

    float32, int64 = "float32", "int64"

    class ILogger:
        Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=2)

    def __init__(self, version, plan=b"a plan"):
        self.__version__, self.plan, self.config = version, plan, FakeConfig()
        self.BuilderFlag = SimpleNamespace(TF32="TF32")
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
        self.flags = None
        tensors = [SimpleNamespace(name=name, shape=(-1, 1, -1, -1), dtype="float32") for name in "vz"]
        self.network = SimpleNamespace(
            num_inputs=1, num_outputs=1, get_input=lambda _: tensors[0], get_output=lambda _: tensors[1]
        )

    def Builder(self, logger):
        def create_network(flags):
            self.flags = flags
            return self.network

        def build(network, config):
            if self.plan is None:
                logger.log(1, "no kernel\nfits")
            return self.plan

        profile = SimpleNamespace(shapes={})
        profile.set_shape = lambda name, *shapes: profile.shapes.update({name: shapes})
        return SimpleNamespace(
            create_network=create_network,
            create_builder_config=lambda: self.config,
            create_optimization_profile=lambda: profile,
            build_serialized_network=build,
        )

    def OnnxParser(self, network, logger):  # noqa: ARG002 - the original's arguments
        return SimpleNamespace(parse=bool)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(
        "export.plans.plan_builder.CudaDevice", lambda: SimpleNamespace(compute_capability="9.0")
    )


@pytest.fixture
def image_bundle(bundle):
    """Only the image network, which the stand-in of the parser knows."""
    networks = {"rdn": bundle.manifest.networks["rdn"]}
    return replace(bundle, manifest=replace(bundle.manifest, networks=networks))


@pytest.mark.parametrize(("version", "creation"), [("11.4.0.106", 0), ("10.13.3.9", 2)])
def test_what_tensorrt_is_told(image_bundle, gpu, monkeypatch, tmp_path, version, creation) -> None:
    """Strongly typed in every version, no TF32, and the times are kept."""
    module = FakeTensorRt(version)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    config = PlanConfig(optimization_level=4, workspace_bytes=1 << 21)
    ((result,), _) = build(image_bundle, config)
    assert module.config.flags == set()
    assert module.flags == creation
    assert module.config.builder_optimization_level == 4
    assert module.config.limits == {"workspace": 1 << 21}
    assert module.config.profile.shapes == {"v": ((1, 1, 13, 26), (1, 1, 13, 26), (64, 1, 13, 26))}
    assert result.path.read_bytes() == b"a plan"
    assert result.metadata.recipe.compute_capabilities == ("9.0",)
    (times,) = (tmp_path / "deq-mpi" / "tensorrt").iterdir()
    assert (times.name, times.read_bytes()) == (f"timing-{version}-9.0.cache", b"measured")


def test_a_build_that_fails_gives_its_reason_and_no_file(image_bundle, gpu, monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRt("11.4.0.106", plan=None))
    with pytest.raises(ExportError, match=r"tensorrt cannot build the plan: no kernel fits$"):
        build(image_bundle, PlanConfig(timing_cache=tmp_path / "times"))
    assert not (image_bundle.path / "rdn.plan").exists()


def test_tensorrt_builds_for_no_gpu_but_this_one(image_bundle, gpu, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRt("11.4.0.106"))
    with pytest.raises(ConfigError, match=r"is 8.9; the GPU here has 9.0"):
        build(image_bundle, PlanConfig(compute_capabilities=("8.9",)))


def test_a_flavour_that_is_not_installed_is_never_replaced(bundle, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ProviderError, match=r"tensorrt is not installed; pip install 'deq-mpi\[tensorrt\]'"):
        build(bundle, PlanConfig())
    assert not (bundle.path / "rdn.plan").exists()


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


TARGET = ["--flavour", "tensorrt-rtx", "--compute-capability", "8.9"]


@needs_builder
def test_the_command_builds_and_then_leaves_alone(bundle) -> None:
    first = run("tensorrt", bundle.path, *TARGET, "--axis", "batch=1:1:8", "--workspace", 64)
    assert first.exit_code == 0, first.output
    assert first.output.splitlines()[-1] == f"wrote rdn.plan, lc.plan in {bundle.path}"
    recipe = read_plan(bundle.path / "rdn.plan")[1].recipe
    assert recipe.inputs["v"].maximum == (8, 1, 13, 26)
    assert recipe.workspace_bytes == 64 << 20
    second = run("tensorrt", bundle.path, *TARGET, "--axis", "batch=1:1:8", "--workspace", 64)
    assert [line.split(" (")[0] for line in second.output.splitlines()] == [
        "rdn.plan is up to date",
        "lc.plan is up to date",
    ]


@needs_builder
def test_an_export_with_plans_takes_the_sizes_of_its_operators(run_dir, system_matrix, tmp_path) -> None:
    target = tmp_path / "bundle"
    options = ["--system-matrix", system_matrix, "--step", "--tensorrt", *TARGET]
    result = run(run_dir, target, *options)
    assert result.exit_code == 0, result.output
    assert read_plan(target / "rdn.plan")[1].recipe.inputs["v"].optimum == (1, 1, 5, 8)
    step = read_plan(target / "step.plan")[1]
    assert step.recipe.inputs["images"].maximum == (18, 4, 40)
    assert step.dtypes["selected_places"] == "int64"
    again = run(run_dir, target, *options)  # a bundle with plans can be replaced
    assert again.exit_code == 0, again.output
    assert "there is none yet" in again.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--axis", "batch"], "expected NAME=LENGTH"),
        (["--axis", "batch=1:2"], "expected NAME=LENGTH"),
        (["--axis", "batch=a"], "expected NAME=LENGTH"),
        (["--axis", "batch=3:2:1"], "do not decrease"),
        (["--compute-capability", "89"], "expected MAJOR.MINOR"),
        (["--flavour", "tensorrt-rtx", "--timing-cache", "x"], "timing_cache has no meaning"),
        (["--operators", "absent.h5"], "absent.h5"),
        (["--optimization-level", "9"], "9 is not in the range"),
    ],
)
def test_wrong_options_are_usage_errors(bundle, options, words) -> None:
    result = run("tensorrt", bundle.path, *options)
    assert result.exit_code == 2
    assert words in result.output
    assert not (bundle.path / "rdn.plan").exists()


def test_an_export_without_builder_fails_before_it_starts(run_dir, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    folders = [run_dir, tmp_path / "bundle"]
    for arguments in ([*folders, "--tensorrt"], ["--tensorrt", *folders]):
        result = run(*arguments)
        assert result.exit_code == 2
        assert result.output.startswith("Error: the module tensorrt is not installed")
        assert len(result.output.splitlines()) == 1
        assert list(tmp_path.iterdir()) == []


def test_plans_of_a_step_need_the_operators_it_is_for(run_dir, tmp_path) -> None:
    result = run(run_dir, tmp_path / "bundle", "--step", "--tensorrt", *TARGET)
    assert result.exit_code == 2
    assert "needs --system-matrix" in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [["--fp16"], TARGET[:2], TARGET[2:]])
def test_plan_options_of_an_export_need_plans(run_dir, tmp_path, option) -> None:
    result = run(run_dir, tmp_path / "bundle", *option)
    assert result.exit_code == 2
    assert "need --tensorrt" in result.output
