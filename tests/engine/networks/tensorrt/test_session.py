"""Plans in the engine: every mismatch is one line before the first frame, and the right memory is used.

TensorRT and CUDA are played by small stand-ins with their interfaces: "device memory" is memory of the host
at addresses that only the stand-in gives out, and a plan is executed by reading and writing these addresses.
`tests/export/plans/test_plan_execution.py` runs real plans where there is a GPU.
"""

# ruff: noqa: ARG002, N815 - the stand-ins have the names and arguments of the originals

import ctypes
import enum
import gc
import hashlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

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


class Status(enum.Enum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35


class FakeCuda:
    """The calls of `cuda.bindings.runtime` that the engine makes; `fails` names one that does not work."""

    cudaError_t = Status
    cudaDeviceAttr = SimpleNamespace(
        cudaDevAttrComputeCapabilityMajor="major", cudaDevAttrComputeCapabilityMinor="minor"
    )
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="in", cudaMemcpyDeviceToHost="out")
    cudaStreamNonBlocking = 1

    def __init__(self):
        self.memory, self.capability, self.fails, self.devices = {}, (8, 9), None, 1

    def __getattribute__(self, name):
        if name == object.__getattribute__(self, "fails"):
            return lambda *_: (Status.cudaErrorMemoryAllocation, None)
        return object.__getattribute__(self, name)

    def cudaGetDeviceCount(self):
        if self.devices is None:
            return Status.cudaErrorInsufficientDriver, None
        return Status.cudaSuccess, self.devices

    def cudaGetErrorString(self, status):
        return Status.cudaSuccess, status.name.encode()

    def cudaSetDevice(self, device):
        return (Status.cudaSuccess,)

    def cudaDeviceGetAttribute(self, which, device):
        return Status.cudaSuccess, self.capability[which == "minor"]

    def cudaStreamCreateWithFlags(self, flags):
        return Status.cudaSuccess, 77

    def cudaStreamDestroy(self, stream):
        return (Status.cudaSuccess,)

    def cudaStreamSynchronize(self, stream):
        return (Status.cudaSuccess,)

    def cudaMalloc(self, size):
        block = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(block)] = block
        return Status.cudaSuccess, ctypes.addressof(block)

    def cudaFree(self, address):
        del self.memory[address]
        return (Status.cudaSuccess,)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        block = self.memory[target if kind == "in" else source]
        assert size <= len(block)
        assert stream == 77
        ctypes.memmove(target, source, size)
        return (Status.cudaSuccess,)


class FakeEngine:
    """A plan that clips at zero, v to z, in execution contexts as TensorRT's."""

    def __init__(self, cuda, names=("v", "z"), dtype="float32", executes=True):
        self.cuda, self.names, self.dtype, self.executes = cuda, names, dtype, executes
        self.shapes, self.addresses = {}, {}
        self.num_io_tensors = len(names)

    def get_tensor_name(self, i):
        return self.names[i]

    def get_tensor_mode(self, name):
        return "out" if name == self.names[-1] else "in"

    def get_tensor_dtype(self, name):
        return self.dtype

    def create_execution_context(self):
        return self

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        return True

    def get_tensor_shape(self, name):
        return self.shapes["v"]

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        def array(name):
            count = int(np.prod(self.shapes["v"]))
            return np.frombuffer(self.cuda.memory[self.addresses[name]], np.float32, count)

        assert stream == 77
        if self.executes:
            array("z")[:] = np.maximum(array("v"), 0)
        return self.executes


class FakeLogger:
    Severity = SimpleNamespace(ERROR="E", INTERNAL_ERROR="F", WARNING="W")


class FakeTensorRt:
    """A TensorRT module whose runtime loads every plan as `engine`; None for one that it refuses."""

    ILogger = FakeLogger
    TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
    float32, int64 = "float32", "int64"

    def __init__(self, engine, version=VERSION):
        self.engine, self.__version__, self.loaded = engine, version, []

    def Runtime(self, logger):
        def load(plan):
            self.loaded.append(plan)
            if self.engine is None:
                logger.log("W", "a warning")
                logger.log("E", "Serialization failed:\n wrong tag")
                logger.log("E", "a consequence")
            return self.engine

        return SimpleNamespace(deserialize_cuda_engine=load)


@pytest.fixture
def cuda(monkeypatch):
    cuda = FakeCuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    return cuda


@pytest.fixture
def tensorrt(cuda, monkeypatch):
    module = FakeTensorRt(FakeEngine(cuda))
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


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
        "version_compatible": False,
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
    with pytest.raises(PairingError, match=r"input v has shape .*built for \(1, 1, 5, 7\) to \(4, 1, 5, 7\)"):
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
    fails(folder, BundleError, f"{missing} is missing.*deqmpi-export tensorrt BUNDLE")


def test_a_damaged_plan(folder, tensorrt) -> None:
    write_plan(folder)
    (folder / "rdn.plan").write_bytes(b"other")
    fails(folder, BundleError, "the file was changed or damaged")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"tensorrt_version": "10.3.0.26"}, ProviderError, "by tensorrt 10.3.0.26; 11.4.0.106 is installed"),
        (
            {"tensorrt_version": "11.4.0.105"},
            ProviderError,
            "by tensorrt 11.4.0.105; 11.4.0.106 is installed",
        ),
        (
            {"compute_capabilities": ("9.0", "12.0")},
            ProviderError,
            r"capability 9.0, 12.0; this one has 8\.9",
        ),
        ({"onnx_sha256": "0" * 64}, BundleError, r"built from an ONNX file of SHA-256 000000000000"),
        ({"network": "lc"}, BundleError, "of network lc; expected rdn"),
        ({"outputs": {"z": ("batch", 2)}}, BundleError, "the bundle says"),
    ],
)
def test_a_plan_that_does_not_match(folder, tensorrt, changes, error, words) -> None:
    write_plan(folder, **changes)
    fails(folder, error, words)
    assert tensorrt.loaded == []


def test_operators_of_another_size_than_the_plans(folder, tensorrt) -> None:
    write_plan(folder)
    with pytest.raises(PairingError, match=r"axis width of input v has length 8 .*for 7 to 7; .*--operators"):
        OnnxPrior(load_bundle(folder), "tensorrt-native", {"height": 5, "width": 8})


def test_a_plan_that_the_runtime_refuses(folder, tensorrt) -> None:
    """The real one returns None and says why to its logger only."""
    tensorrt.engine = None
    write_plan(folder)
    fails(
        folder, ProviderError, r"tensorrt 11.4.0.106 cannot load the plan: Serialization failed: wrong tag;"
    )


@pytest.mark.parametrize("engine", [{"names": ("w", "z")}, {"names": ("v", "w", "z")}, {"dtype": "half"}])
def test_a_plan_with_other_tensors_than_its_metadata(folder, tensorrt, cuda, engine) -> None:
    tensorrt.engine = FakeEngine(cuda, **engine)
    write_plan(folder)
    fails(folder, BundleError, r"expected \(\['v'\], \['z'\]\)|is half; its metadata say")


def test_an_execution_that_fails_gives_no_image(folder, tensorrt, cuda) -> None:
    tensorrt.engine = FakeEngine(cuda, executes=False)
    write_plan(folder)
    prior = open_prior(folder)
    with pytest.raises(DeviceError, match="could not run the plan: TensorRT gave no reason"):
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
    assert tensorrt.loaded == []  # TensorRT's lean runtime crashes the process without a driver


def test_a_missing_runtime_says_what_to_install(folder, cuda, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    write_plan(folder)
    fails(folder, ProviderError, r"tensorrt is not installed; pip install 'deq-mpi\[tensorrt\]'")


def test_missing_cuda_bindings_say_what_to_install(folder, tensorrt, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    write_plan(folder)
    fails(folder, ProviderError, r"cuda-bindings.*is not installed; pip install")


@pytest.mark.parametrize(
    ("flavour", "compatible", "module"),
    [("tensorrt", True, "tensorrt_lean"), ("tensorrt-rtx", False, "tensorrt_rtx")],
)
def test_no_runtime_stands_in_for_another(folder, tensorrt, cuda, monkeypatch, flavour, compatible, module):
    """The module is the plan's own, also where another one is installed."""
    write_plan(folder, flavour=flavour, version_compatible=compatible)
    monkeypatch.setitem(sys.modules, module, None)
    fails(folder, ProviderError, f"{module} is not installed")
    monkeypatch.setitem(sys.modules, module, FakeTensorRt(FakeEngine(cuda)))
    np.testing.assert_array_equal(
        open_prior(folder)(-np.ones((1, 1, 5, 7), np.float32), NOISE), np.zeros((1, 1, 5, 7))
    )
    assert tensorrt.loaded == []


@pytest.mark.parametrize(
    ("installed", "runs"), [("11.4.0.106", True), ("11.5.1.2", True), ("12.0.0.1", True), ("11.3.9.9", False)]
)
def test_a_version_compatible_plan_runs_on_later_versions(folder, cuda, monkeypatch, installed, runs) -> None:
    write_plan(folder, version_compatible=True)
    monkeypatch.setitem(sys.modules, "tensorrt_lean", FakeTensorRt(FakeEngine(cuda), installed))
    if runs:
        open_prior(folder)
    else:
        fails(folder, ProviderError, "the lean runtime here is 11.3.9.9; expected that version or a later")


def test_metadata_survive_the_file(folder) -> None:
    original = PlanMetadata(recipe(folder, precision="fp16"), "a" * 64, DTYPES, 3e-4)
    assert PlanMetadata.from_json(original.to_json()) == original


def test_every_field_of_a_recipe_is_compared(folder) -> None:
    one = recipe(folder)
    others = {
        "network": "lc", "flavour": "tensorrt-rtx", "tensorrt_version": "1", "compute_capabilities": (),
        "onnx_sha256": "b", "graph_sha256": "c", "precision": "fp16", "version_compatible": True,
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
        (lambda v: v.update(schema=2), "schema 1"),
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


def test_a_plan_with_indices_gets_them_as_integers(folder, tensorrt, cuda) -> None:
    inputs = {"v": PlanInput((2,), (2,), (2,), (2,)), "i": PlanInput((2,), (2,), (2,), (2,))}
    metadata = PlanMetadata(
        recipe(folder, inputs=inputs, outputs={"z": (2,)}),
        "0" * 64,
        {"v": "float32", "i": "int64", "z": "float32"},
        fp16_difference=None,
    )
    engine = FakeEngine(cuda, names=("v", "i", "z"))
    engine.get_tensor_dtype = lambda name: metadata.dtypes[name]
    tensorrt.engine = engine
    session = TensorRtSession(b"", metadata, import_tensorrt("tensorrt"), CudaDevice())
    outputs = session.run(v=np.array([-1.0, 2.0], np.float32), i=np.array([3, 2**40]))
    np.testing.assert_array_equal(outputs["z"], [0, 2])
    found = np.frombuffer(cuda.memory[engine.addresses["i"]], np.int64, 2)
    np.testing.assert_array_equal(found, [3, 2**40])


def test_a_process_has_one_logger_per_module(tensorrt) -> None:
    """TensorRT ignores a second one while an object made with the first is alive."""
    assert message_collector(import_tensorrt("tensorrt")) is message_collector(import_tensorrt("tensorrt"))


def test_errors_of_before_are_not_the_reason(folder, tensorrt) -> None:
    message_collector(import_tensorrt("tensorrt")).log("E", "an old error")
    tensorrt.engine = None
    write_plan(folder)
    fails(folder, ProviderError, "cannot load the plan: Serialization failed")


def test_a_strided_array_is_never_copied_as_it_lies(cuda) -> None:
    device = CudaDevice()
    buffer = device.buffer(16)
    with pytest.raises(ValueError, match="expected a contiguous one of at most 16 bytes"):
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
