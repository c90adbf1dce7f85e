"""Plans in the engine: every mismatch is one line before the first frame, and the right memory is used.

TensorRT and CUDA are played by stand-ins with their interfaces (`conftest.py` of `tests/engine`): "device
memory" is memory of the host at addresses that only the stand-in gives out, and a plan is executed by reading
and writing these addresses.
`tests/export/plans/test_plan_execution.py` runs real plans where there is a GPU.
"""

import gc
import hashlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.errors import BundleError, DeviceError, PairingError, ProviderError
from engine.networks.bundle import load_bundle
from engine.networks.sessions import OnnxPrior
from engine.networks.tensorrt.cuda_device import CudaDevice
from engine.networks.tensorrt.module import import_tensorrt, message_collector
from engine.networks.tensorrt.plan_metadata import PlanInput, PlanMetadata, PlanRecipe
from engine.networks.tensorrt.session import TensorRtSession

FIXTURE = Path(__file__).parents[3] / "fixtures" / "bundle"
IMAGE = ("batch", 1, "height", "width")
VERSION = "11.4.0.106"
NOISE = np.ones((1, 1, 1, 1), np.float32)
DTYPES = {"v": "float32", "z": "float32"}
LENGTHS = {"height": 5, "width": 7}


@pytest.fixture
def make_clip(make_engine):
    """Make a plan that clips at zero, v to z; the arguments are those of `FakeEngine`."""

    def make(inputs=("v",), **changes):
        values = {
            "compute": lambda arrays: {"z": np.maximum(arrays["v"], 0)},
            "outputs": {"z": lambda shapes: shapes["v"]},
        }
        return make_engine(inputs=inputs, **(values | changes))

    return make


@pytest.fixture
def tensorrt(make_clip, install_tensorrt):
    return install_tensorrt(make_clip())


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(FIXTURE, tmp_path / "bundle"))


def recipe(folder, **changes):
    network = load_bundle(folder).manifest.networks["rdn"]
    shapes = (1, 1, 5, 7), (1, 1, 5, 7), (4, 1, 5, 7)
    values = {
        "network": "rdn",
        "flavour": "tensorrt",
        "tensorrt_version": VERSION,
        "compute_capabilities": ("8.9",),
        "onnx_sha256": network.sha256,
        "graph_sha256": network.sha256,
        "precision": "fp32",
        "optimization_level": 3,
        "workspace_bytes": 1 << 20,
        "inputs": {"v": PlanInput(IMAGE, *shapes)},
        "outputs": {"z": IMAGE},
    }
    return PlanRecipe(**(values | changes))


def write_plan(folder, plan=b"plan", **changes):
    metadata = PlanMetadata(recipe(folder, **changes), hashlib.sha256(plan).hexdigest(), DTYPES, None)
    (folder / "rdn.plan").write_bytes(plan)
    (folder / "rdn.plan.json").write_text(metadata.to_json())


def open_prior(folder):
    return OnnxPrior(load_bundle(folder), "tensorrt-native", LENGTHS)


def test_a_plan_runs_behind_the_protocol_of_a_session(folder, tensorrt, cuda) -> None:
    write_plan(folder)
    prior = open_prior(folder)
    assert tensorrt.loaded == [b"plan"]
    rng = np.random.default_rng(0)
    for batch in (1, 4, 2):  # more memory, then less
        v = rng.standard_normal((batch, 1, 5, 7)).astype(np.float32)
        z = prior(v, NOISE)
        assert z.dtype == np.float32
        np.testing.assert_array_equal(z, np.maximum(v, 0))


def test_an_array_that_is_not_contiguous_is_copied_right(folder, tensorrt) -> None:
    write_plan(folder)
    v = np.random.default_rng(1).standard_normal((1, 1, 7, 5)).astype(np.float32).swapaxes(2, 3)
    np.testing.assert_array_equal(open_prior(folder)(v, NOISE), np.maximum(v, 0))


def test_device_memory_is_reused_and_freed(folder, tensorrt, cuda) -> None:
    write_plan(folder)
    prior = open_prior(folder)
    v = np.ones((2, 1, 5, 7), np.float32)
    prior(v, NOISE)
    used = set(cuda.memory)
    prior(v, NOISE)
    assert set(cuda.memory) == used
    assert len(used) == 2
    del prior
    gc.collect()
    assert not cuda.memory


@pytest.mark.parametrize("shape", [(5, 1, 5, 7), (1, 1, 5, 8), (1, 5, 7)])
def test_a_shape_outside_the_profile_does_not_belong_to_the_plan(folder, tensorrt, shape) -> None:
    write_plan(folder)
    with pytest.raises(PairingError, match=r"input v .*\(1, 1, 5, 7\) to \(4, 1, 5, 7\)"):
        open_prior(folder)(np.zeros(shape, np.float32), NOISE)


def fails(folder, error, words):
    """Opening the plan raises one line that names the file; nothing was loaded."""
    with pytest.raises(error, match=words) as raised:
        open_prior(folder)
    assert "rdn.plan" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("missing", ["rdn.plan", "rdn.plan.json"])
def test_a_bundle_without_plan(folder, tensorrt, missing) -> None:
    write_plan(folder)
    (folder / missing).unlink()
    fails(folder, BundleError, f"{missing} .*deqmpi-export tensorrt")


def test_a_damaged_plan(folder, tensorrt) -> None:
    write_plan(folder)
    (folder / "rdn.plan").write_bytes(b"other")
    fails(folder, BundleError, "damaged")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"tensorrt_version": "10.3.0.26"}, ProviderError, r"10\.3\.0\.26.*11\.4\.0\.106"),
        (
            {"tensorrt_version": "11.4.0.105"},
            ProviderError,
            r"11\.4\.0\.105.*11\.4\.0\.106",
        ),
        (
            {"compute_capabilities": ("9.0", "12.0")},
            ProviderError,
            r"9\.0, 12\.0.*8\.9",
        ),
        ({"onnx_sha256": "0" * 64}, BundleError, "SHA-256 000000000000"),
        ({"network": "lc"}, BundleError, "network lc.*rdn"),
        ({"outputs": {"z": ("batch", 2)}}, BundleError, "the bundle says"),
    ],
)
def test_a_plan_that_does_not_match(folder, tensorrt, changes, error, words) -> None:
    write_plan(folder, **changes)
    fails(folder, error, words)
    assert tensorrt.loaded == []


def test_operators_of_another_size_than_the_plans(folder, tensorrt) -> None:
    write_plan(folder)
    with pytest.raises(PairingError, match=r"axis width .*input v .*8 .*7 to 7.*--operators"):
        OnnxPrior(load_bundle(folder), "tensorrt-native", {"height": 5, "width": 8})


def test_a_plan_that_the_runtime_refuses(folder, tensorrt) -> None:
    """The real one returns None and says why to its logger only."""
    tensorrt.engine = None
    write_plan(folder)
    fails(folder, ProviderError, r"11\.4\.0\.106 .*Serialization failed: wrong tag")


@pytest.mark.parametrize(
    "engine", [{"inputs": ("w",)}, {"inputs": ("v", "w")}, {"dtypes": {"v": "half", "z": "half"}}]
)
def test_a_plan_with_other_tensors_than_its_metadata(folder, tensorrt, make_clip, engine) -> None:
    tensorrt.engine = make_clip(**engine)
    write_plan(folder)
    fails(folder, BundleError, r"\(\['v'\], \['z'\]\)|is half")


def test_an_execution_that_fails_gives_no_image(folder, tensorrt, make_clip) -> None:
    tensorrt.engine = make_clip(executes=False)
    write_plan(folder)
    prior = open_prior(folder)
    with pytest.raises(DeviceError, match="no reason"):
        prior(np.zeros((1, 1, 5, 7), np.float32), NOISE)


@pytest.mark.parametrize("call", ["cudaMalloc", "cudaMemcpyAsync", "cudaStreamSynchronize"])
def test_no_error_code_of_cuda_is_overlooked(folder, tensorrt, cuda, call) -> None:
    write_plan(folder)
    prior = open_prior(folder)
    cuda.fails = call
    with pytest.raises(DeviceError, match=f"{call} failed: cudaErrorMemoryAllocation"):
        prior(np.zeros((1, 1, 5, 7), np.float32), NOISE)


@pytest.mark.parametrize(("devices", "words"), [(0, "no device"), (None, "cudaErrorInsufficientDriver")])
def test_a_machine_without_gpu(folder, tensorrt, cuda, devices, words) -> None:
    cuda.devices = devices
    write_plan(folder)
    fails(folder, ProviderError, rf"no CUDA device can be used here \({words}\)")
    assert tensorrt.loaded == []


def test_a_missing_runtime_says_what_to_install(folder, cuda, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    write_plan(folder)
    fails(folder, ProviderError, r"tensorrt is not installed; pip install 'deq-mpi\[tensorrt\]'")


def test_missing_cuda_bindings_say_what_to_install(folder, tensorrt, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    write_plan(folder)
    fails(folder, ProviderError, r"cuda-bindings.*is not installed; pip install")


def test_no_runtime_stands_in_for_another(folder, tensorrt, make_clip, install_tensorrt, monkeypatch) -> None:
    """The module is the plan's own, also where another one is installed."""
    write_plan(folder, flavour="tensorrt-rtx")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    fails(folder, ProviderError, "tensorrt_rtx is not installed")
    install_tensorrt(make_clip(), "tensorrt_rtx")
    np.testing.assert_array_equal(
        open_prior(folder)(-np.ones((1, 1, 5, 7), np.float32), NOISE), np.zeros((1, 1, 5, 7))
    )
    assert tensorrt.loaded == []


@pytest.mark.parametrize("compatible", [False, True])
def test_metadata_of_schema_1_are_refused_and_say_what_to_do(folder, tensorrt, compatible) -> None:
    """It had one field more, whether the plan was for the lean runtime."""
    write_plan(folder)
    file = folder / "rdn.plan.json"
    values = json.loads(file.read_text()) | {"schema": 1, "version_compatible": compatible}
    file.write_text(json.dumps(values))
    fails(folder, BundleError, r"schema 1; .*schema 2.*build it again: deqmpi-export")
    assert tensorrt.loaded == []


def test_metadata_survive_the_file(folder) -> None:
    original = PlanMetadata(recipe(folder, precision="fp16"), "a" * 64, DTYPES, 3e-4)
    assert PlanMetadata.from_json(original.to_json()) == original


def test_every_field_of_a_recipe_is_compared(folder) -> None:
    one = recipe(folder)
    others = {
        "network": "lc", "flavour": "tensorrt-rtx", "tensorrt_version": "1", "compute_capabilities": (),
        "onnx_sha256": "b", "graph_sha256": "c", "precision": "fp16",
        "optimization_level": 0, "workspace_bytes": 1, "inputs": {}, "outputs": {},
    }  # fmt: skip
    assert one.differences(one) == []
    for name, value in others.items():
        assert one.differences(replace(one, **{name: value})) == [name]
    assert one.differences(PlanRecipe(**others)) == list(others)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.update(kind="x"), "this version reads kind 'deq-mpi-plan'"),
        (lambda v: v.update(schema=3), "schema 2"),
        (lambda v: v.pop("flavour"), "incomplete or damaged"),
        (lambda v: v.update(flavour="trt"), "expected one of tensorrt, tensorrt-rtx"),
        (lambda v: v.update(extra=1), "recipe has the unknown key 'extra'"),
        (lambda v: v.update(optimization_level=True), r"recipe\.optimization_level: .*`bool`"),
        (lambda v: v.update(workspace_bytes="1"), r"recipe\.workspace_bytes: .*`str`"),
        (lambda v: v.update(compute_capabilities=[8.9]), "incomplete or damaged"),
        (lambda v: v.update(compute_capabilities=None), "incomplete or damaged"),
        (lambda v: v.update(inputs=[]), "incomplete or damaged"),
        (lambda v: v["inputs"]["v"].update(minimum=[1.5]), "incomplete or damaged"),
        (lambda v: v["inputs"]["v"].pop("axes"), "incomplete or damaged"),
        (lambda v: v.update(outputs={"z": 3}), "incomplete or damaged"),
        (lambda v: v["dtypes"].update(v="float16"), "v is 'float16'; expected one of float32, int64"),
        (lambda v: v["dtypes"].pop("v"), "v of the plan is float32; its metadata say None"),
        (lambda v: v.pop("fp16_difference"), "missing.*`fp16_difference`"),
        (lambda v: v.update(fp16_difference="small"), "fp16_difference: .*`float`.*`str`"),
    ],
)
def test_metadata_that_are_not_ours(folder, tensorrt, change, words) -> None:
    write_plan(folder)
    file = folder / "rdn.plan.json"
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))
    fails(folder, BundleError, words)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe"])
def test_metadata_that_are_no_json_object(folder, tensorrt, content) -> None:
    write_plan(folder)
    (folder / "rdn.plan.json").write_bytes(content)
    fails(folder, BundleError, "the metadata are")


def test_a_bound_call_reads_what_its_array_holds_then(folder, tensorrt) -> None:
    write_plan(folder)
    v = np.zeros((1, 1, 5, 7), np.float32)
    run = open_prior(folder).bind(v, NOISE)
    for value in (2.0, -1.0):
        v[:] = value
        np.testing.assert_array_equal(run(), np.maximum(v, 0))


@pytest.fixture
def two_inputs(folder, tensorrt, make_clip):
    """A session of a plan with rows v, indices i and an output z."""
    inputs = {"v": PlanInput((2, 3), (2, 3), (2, 3), (2, 3)), "i": PlanInput((2,), (2,), (2,), (2,))}
    dtypes = {"v": "float32", "i": "int64", "z": "float32"}
    metadata = PlanMetadata(recipe(folder, inputs=inputs, outputs={"z": (3,)}), "0" * 64, dtypes, None)
    tensorrt.engine = make_clip(
        inputs=("v", "i"),
        dtypes={"i": "int64"},
        outputs={"z": lambda shapes: shapes["v"][1:]},
        compute=lambda arrays: {"z": arrays["v"].sum(axis=0)},
    )
    return TensorRtSession(b"", metadata, import_tensorrt("tensorrt"), CudaDevice())


def test_a_plan_with_indices_gets_them_as_integers(two_inputs, tensorrt) -> None:
    two_inputs.write("i", np.array([3, 2**40]))
    np.testing.assert_array_equal(tensorrt.engine.array("i"), [3, 2**40])


def test_tensors_stay_on_the_device_from_run_to_run(two_inputs, cuda) -> None:
    """An output becomes a row of an input there; only what is read comes back."""
    two_inputs.write("v", np.array([[1, 2, 3], [10, 20, 30]]))
    two_inputs.write("i", np.zeros(2, np.int64))
    cuda.traffic.clear()
    for _ in range(2):
        two_inputs.execute()
        two_inputs.copy_to_row("z", "v", 1)
    assert cuda.traffic == [("across", 12), ("across", 12)]
    assert two_inputs.shape("z") == (3,)
    np.testing.assert_array_equal(two_inputs.read("z"), [12, 24, 36])
    np.testing.assert_array_equal(two_inputs.read("v"), [[1, 2, 3], [12, 24, 36]])
    with pytest.raises(ValueError, match="12 bytes are to go to 24 of 24"):
        two_inputs.copy_to_row("z", "v", 2)


def test_a_process_has_one_logger_per_module(tensorrt) -> None:
    """TensorRT ignores a second one while an object made with the first is alive."""
    assert message_collector(import_tensorrt("tensorrt")) is message_collector(import_tensorrt("tensorrt"))


def test_errors_of_before_are_not_the_reason(folder, tensorrt) -> None:
    message_collector(import_tensorrt("tensorrt")).log("E", "an old error")
    tensorrt.engine = None
    write_plan(folder)
    fails(folder, ProviderError, "Serialization failed")


def test_a_strided_array_is_never_copied_as_it_lies(cuda) -> None:
    device = CudaDevice()
    buffer = device.buffer(16)
    with pytest.raises(ValueError, match="16 bytes"):
        device.copy_in(buffer, np.zeros((2, 2), np.float32).T)
    with pytest.raises(ValueError, match="has 20 bytes"):
        device.copy_out(np.zeros(5, np.float32), buffer)


def test_the_real_runtime_refuses_rubbish_and_says_why() -> None:
    """What TensorRT really does with a file that is no plan: None, and the reason in the log."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx, a TensorRT that loads without GPU, is not here")
    tensorrt = import_tensorrt("tensorrt_rtx")
    logger = message_collector(tensorrt)
    logger.errors.clear()
    assert tensorrt.module.Runtime(logger).deserialize_cuda_engine(b"no plan" * 100) is None
    assert "Serialization" in logger.errors[0]
