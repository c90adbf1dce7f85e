"""Small calibrated systems, and stand-ins of TensorRT and CUDA, on which the engine's tests agree."""

# ruff: noqa: ARG002, N815 - the stand-ins have the names and arguments of the originals

import ctypes
import enum
import functools
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest

from engine.calibration.calibrate import CalibrationConfig, calibrate
from engine.mpi.grid import Grid
from engine.mpi.mdf.new_files import (
    new_acquisition,
    new_calibration_file,
    new_measurement_file,
    new_sine_drive,
)
from engine.mpi.row_layout import Acquisition, RowLayout
from engine.mpi.system_matrix import SystemMatrix

CONFIG = CalibrationConfig(harmonics=(2, 3), harmonic_half_width=200.0)
"""Rows of `scan`: 30 bins around its strongest harmonics."""


def random_system_matrix(grid, n_rows, shape, seed):
    """Smooth random rows at random places of a dense layout of the given shape."""
    rng = np.random.default_rng(seed)
    index = np.sort(rng.choice(shape[0] * shape[1], n_rows, replace=False)).astype(np.int64)
    waves = rng.uniform(-3, 3, (n_rows, 3)) / np.array(grid.field_of_view)
    rows = 40 * np.exp(1j * (waves @ grid.positions().T) + 1j * rng.uniform(0, 6, (n_rows, 1)))
    rows += 0.1 * (rng.standard_normal(rows.shape) + 1j * rng.standard_normal(rows.shape))
    acquisition = Acquisition(
        bandwidth=500e3,
        n_samples=1000,
        n_periods=shape[0],
        n_channels=1,
        channels=np.array([0], np.int64),
        bins=np.arange(50, 50 + shape[1], dtype=np.int64),
    )
    return SystemMatrix(
        rows.astype(np.complex128),
        grid,
        RowLayout(shape, index),
        acquisition,
        rng.uniform(1e-6, 2e-6, n_rows),
    )


@pytest.fixture(scope="session")
def make_system_matrix():
    """Build a random system matrix: make_system_matrix(grid, n_rows, dense_shape, seed)."""
    return random_system_matrix


@pytest.fixture(scope="session")
def small_system_matrix():
    """60 complex rows in a (6, 12) layout on a 7 x 5 grid."""
    return random_system_matrix(Grid((7, 5, 1), (0.014, 0.010, 0.002)), 60, (6, 12), 1)


@dataclass(frozen=True)
class Scan:
    """A made-up scanner whose every number is known: 3 periods, 2 channels, 101 bins 100 Hz apart.

    The drive field has 1 kHz (bin 10), signals live around its harmonics, strongest at the second.

    Attributes
    ----------
    signal : ndarray of complex128, shape (20, 3, 2, 101)
        Spectra per unit concentration of each voxel of a 5 x 4 grid.
    background : ndarray of complex128, shape (3, 2, 101)
        What is received without a sample; larger than most signals.
    noise : ndarray of float64, shape (3, 2, 101)
        Standard deviation per real component.
    """

    grid: Grid
    signal: np.ndarray
    background: np.ndarray
    noise: np.ndarray

    def acquisition(self, divider=(10,), **changes):
        drive = new_sine_drive(10e3, divider, 0.01, n_periods=3)
        settings = {"bandwidth": 10e3, "n_samples": 200, "n_periods": 3, "n_channels": 2}
        return new_acquisition(**(settings | changes), drivefield=drive)

    def frames(self, concentrations, rng):
        """Noisy spectra (F, 3, 2, 101) of voxel vectors (F, 20), background included."""
        clean = np.tensordot(concentrations, self.signal, axes=1) + self.background
        random = rng.standard_normal((2, *clean.shape)) * self.noise
        return clean + random[0] + 1j * random[1]

    def calibration(self, *, n_background=12, bins=None, snr=None, divider=(10,), seed=5):
        """Calibration file with one frame per voxel; `bins` are the ones stored."""
        rng = np.random.default_rng(seed)
        foreground = self.frames(np.eye(20), rng)
        background = self.frames(np.zeros((n_background, 20)), rng)
        kept = np.arange(101) if bins is None else np.asarray(bins)
        return new_calibration_file(
            foreground[..., kept],
            background[..., kept],
            grid=self.grid,
            acquisition=self.acquisition(divider),
            bins=None if bins is None else kept,
            snr=snr,
        )

    def measurement(self, spectra, mask=None, *, bins=None, **changes):
        """Measurement file of spectra (N, 3, 2, 101); `bins` are the ones stored."""
        kept = np.arange(101) if bins is None else np.asarray(bins)
        file = new_measurement_file(
            spectra[..., kept],
            acquisition=self.acquisition(),
            background_mask=mask,
            bins=None if bins is None else kept,
        )
        return replace(file, measurement=replace(file.measurement, **changes))


@pytest.fixture(scope="session")
def scan():
    rng = np.random.default_rng(8)
    grid = Grid((5, 4, 1), (0.010, 0.008, 0.002))
    bin_number = np.arange(101)
    harmonic = np.rint(bin_number / 10)
    strength = 50 * np.exp(-0.8 * harmonic - 1.2 * np.abs(bin_number - 10 * harmonic))
    phase = rng.uniform(0, 2 * np.pi, (3, 2, 101))
    waves = rng.uniform(-400, 400, (3, 2, 101, 2))
    angle = phase + np.einsum("jckd,nd->njck", waves, grid.positions()[:, :2])
    complex_background = rng.standard_normal((2, 3, 2, 101))
    return Scan(
        grid=grid,
        signal=strength * np.exp(1j * angle),
        background=5 * (complex_background[0] + 1j * complex_background[1]),
        noise=rng.uniform(0.05, 0.15, (3, 2, 101)),
    )


@pytest.fixture(scope="session")
def operators(scan):
    """30 bins of two channels and three periods, on a 5 x 4 grid."""
    return calibrate(scan.calibration(), CONFIG)


@pytest.fixture(scope="session")
def image():
    """A voxel vector (20,)."""
    return np.random.default_rng(4).uniform(0.5, 2, 20)


class Status(enum.Enum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35


STREAM = 77
ALIGNMENT = 256
"""Bytes: addresses that CUDA gives out and TensorRT takes are multiples of it."""


class FakeCuda:
    """The calls of `cuda.bindings.runtime` that the engine makes, on memory of the host.

    What goes to the stream is done when the stream is waited for, not before. Fresh memory holds NaN.

    Attributes
    ----------
    memory : dict
        Bytes by address, of all that is allocated.
    traffic : list
        Direction and number of bytes of every copy.
    fails : str or None
        Name of a call that does not work.
    """

    cudaError_t = Status
    cudaDeviceAttr = SimpleNamespace(
        cudaDevAttrComputeCapabilityMajor="major", cudaDevAttrComputeCapabilityMinor="minor"
    )
    cudaMemcpyKind = SimpleNamespace(
        cudaMemcpyHostToDevice="in", cudaMemcpyDeviceToHost="out", cudaMemcpyDeviceToDevice="across"
    )
    cudaStreamNonBlocking = 1

    def __init__(self):
        self.memory, self.queue, self.traffic = {}, [], []
        self.capability, self.fails, self.devices = (8, 9), None, 1

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
        return Status.cudaSuccess, STREAM

    def cudaStreamDestroy(self, stream):
        return (Status.cudaSuccess,)

    def cudaStreamSynchronize(self, stream):
        assert stream == STREAM
        while self.queue:
            self.queue.pop(0)()
        return (Status.cudaSuccess,)

    def cudaMalloc(self, size):
        block = np.full(size + ALIGNMENT, 0xFF, np.uint8)
        start = -block.ctypes.data % ALIGNMENT
        block = block[start : start + size]
        self.memory[block.ctypes.data] = block
        return Status.cudaSuccess, block.ctypes.data

    def cudaFree(self, address):
        self.cudaStreamSynchronize(STREAM)
        del self.memory[address]
        return (Status.cudaSuccess,)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        assert stream == STREAM
        self.traffic.append((kind, size))
        if kind == "in":  # ordinary memory of the host is read before the call returns
            content = np.frombuffer(ctypes.string_at(source, size), np.uint8)
            self.queue.append(lambda: np.copyto(self.bytes_at(target, size), content))
        elif kind == "out":
            self.queue.append(lambda: ctypes.memmove(target, self.bytes_at(source, size).ctypes.data, size))
        else:
            self.queue.append(lambda: np.copyto(self.bytes_at(target, size), self.bytes_at(source, size)))
        return (Status.cudaSuccess,)

    def bytes_at(self, address, size):
        """A view of device memory; all of it has to be inside one allocation."""
        (start,) = (a for a, block in self.memory.items() if a <= address <= a + len(block) - size)
        return self.memory[start][address - start : address - start + size]


class FakeEngine:
    """A plan in an execution context as TensorRT's: reads and writes device memory at given addresses.

    Parameters
    ----------
    cuda : FakeCuda
        Where the memory is.
    compute : callable
        Inputs by name to outputs by name.
    inputs : tuple of str
        Their names.
    outputs : dict
        Of each output by name, a function from the shapes of the inputs to its own.
    dtypes : dict
        Types other than float32.
    executes : bool
        Whether a run succeeds.
    """

    def __init__(self, cuda, compute, inputs, outputs, dtypes=None, executes=True):
        self.cuda, self.compute, self.inputs, self.outputs = cuda, compute, inputs, outputs
        self.dtypes, self.executes = dtypes or {}, executes
        self.shapes, self.addresses = {}, {}
        self.num_io_tensors = len(inputs) + len(outputs)

    def get_tensor_name(self, i):
        return (*self.inputs, *self.outputs)[i]

    def get_tensor_mode(self, name):
        return "out" if name in self.outputs else "in"

    def get_tensor_dtype(self, name):
        return self.dtypes.get(name, "float32")

    def create_execution_context(self):
        return self

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        return True

    def get_tensor_shape(self, name):
        return self.shapes[name] if name in self.inputs else self.outputs[name](self.shapes)

    def set_tensor_address(self, name, address):
        assert address % ALIGNMENT == 0
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        assert stream == STREAM
        assert len(set(self.addresses.values())) == self.num_io_tensors
        if self.executes:
            self.cuda.queue.append(self.run)
        return self.executes

    def run(self):
        results = self.compute({name: self.array(name) for name in self.inputs})
        for name in self.outputs:
            self.array(name)[...] = results[name]

    def array(self, name):
        """What a tensor holds, as a view."""
        shape, dtype = self.get_tensor_shape(name), np.dtype(self.get_tensor_dtype(name))
        content = self.cuda.bytes_at(self.addresses[name], int(np.prod(shape)) * dtype.itemsize)
        return content.view(dtype).reshape(shape)


class FakeLogger:
    Severity = SimpleNamespace(ERROR="E", INTERNAL_ERROR="F", WARNING="W")


class FakeTensorRt:
    """A TensorRT module whose runtime loads every plan as `engine`; None for one that it refuses."""

    ILogger = FakeLogger
    TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
    float32, int64 = "float32", "int64"
    __version__ = "11.4.0.106"

    def __init__(self, engine):
        self.engine, self.loaded = engine, []

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
    """One device with a driver, a stand-in."""
    cuda = FakeCuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    return cuda


@pytest.fixture
def make_engine(cuda):
    """Make a plan as the stand-in of TensorRT loads it; arguments as of `FakeEngine`, but for `cuda`."""
    return functools.partial(FakeEngine, cuda)


@pytest.fixture
def install_tensorrt(monkeypatch):
    """Make a stand-in of TensorRT the module of a name: install_tensorrt(engine, name="tensorrt")."""

    def install(engine, name="tensorrt"):
        module = FakeTensorRt(engine)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return install
