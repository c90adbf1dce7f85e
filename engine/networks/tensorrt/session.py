"""A TensorRT plan on the GPU: called with named arrays as ONNX Runtime's sessions are, or run where it is."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.arrays import Float32Array
from engine.errors import BundleError, DeviceError, PairingError, ProviderError
from engine.networks.axis_ranges import ShapeRange
from engine.networks.bundle import Bundle
from engine.networks.learned_blocks import BoundBlock
from engine.networks.tensorrt.cuda_device import CudaDevice, DeviceBuffer
from engine.networks.tensorrt.module import TensorRt, import_tensorrt, message_collector, reason
from engine.networks.tensorrt.plan_metadata import REBUILD, PlanMetadata, plan_path, read_plan


class TensorRtSession:
    """One plan on the GPU, for one thread.

    Parameters
    ----------
    plan : bytes
        Serialized engine, built by the same version of TensorRT for the same kind of GPU: check before.
    metadata : PlanMetadata
        Metadata of the plan.
    tensorrt : TensorRt
        Module of the runtime.
    device : CudaDevice
        Where it runs. Made before the runtime, so that a missing driver is said in our words.

    Raises
    ------
    ProviderError
        If the runtime cannot load the plan.
    BundleError
        If the plan's inputs and outputs are not those of the metadata.
    """

    def __init__(self, plan: bytes, metadata: PlanMetadata, tensorrt: TensorRt, device: CudaDevice) -> None:
        self._device = device
        self._errors = message_collector(tensorrt).errors
        self._errors.clear()
        self._runtime = tensorrt.module.Runtime(message_collector(tensorrt))
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        self._context: Any = None if self._engine is None else self._engine.create_execution_context()
        if self._context is None:
            raise ProviderError(
                f"{tensorrt.name} {tensorrt.version} cannot load the plan: {reason(self._errors)}; {REBUILD}"
            )
        _check_tensors(self._engine, tensorrt.module, metadata)
        self._ranges = {name: spec.range for name, spec in metadata.recipe.inputs.items()}
        self._outputs = list(metadata.recipe.outputs)
        self._dtypes = {name: np.dtype(dtype) for name, dtype in metadata.dtypes.items()}
        self._buffers: dict[str, DeviceBuffer] = {}

    def __call__(self, **inputs: Float32Array) -> NDArray[Any]:
        """Run the plan on named arrays and return its first output.

        Inputs and outputs have the axes and types that the metadata state; inputs of others are converted.

        Raises
        ------
        PairingError
            If an array has a shape that the plan was not built for.
        DeviceError
            If the device reports an error.
        """
        arrays = {name: np.ascontiguousarray(inputs[name], self._dtypes[name]) for name in self._ranges}
        for name, array in arrays.items():  # each is kept until the stream has been waited for
            self._send(name, array)
        self.execute()
        return self.read(self._outputs[0])

    def bind(self, **inputs: Float32Array) -> BoundBlock:
        """Return a call of the plan on arrays that stay where they are; it reads what they hold then."""
        return partial(self, **inputs)

    def write(self, name: str, values: NDArray[Any]) -> None:
        """Copy values to an input, which holds them from then on; errors as in a call."""
        array = np.ascontiguousarray(values, self._dtypes[name])
        self._send(name, array)
        self._device.synchronize()

    def execute(self) -> None:
        """Queue a run of the plan on what its inputs hold; its outputs stay on the device."""
        self._errors.clear()
        for name in self._outputs:
            self._place(name, self.shape(name))
        if not self._context.execute_async_v3(int(self._device.stream)):
            raise self._failure("could not run the plan")

    def copy_to_row(self, output: str, name: str, row: int) -> None:
        """Queue the copy of an output to row `row` of the first axis of an input, on the device."""
        size = self._size(output, self.shape(output))
        self._device.copy_across(self._buffers[name], row * size, self._buffers[output], size)

    def read(self, name: str) -> NDArray[Any]:
        """Return a copy of what an input or output holds when all that is queued has been done."""
        values = np.empty(self.shape(name), self._dtypes[name])
        self._device.copy_out(values, self._buffers[name])
        self._device.synchronize()
        return values

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an input, or of an output with the inputs as they are."""
        return tuple(self._context.get_tensor_shape(name))

    def _send(self, name: str, array: NDArray[Any]) -> None:
        """Queue the copy of an array to an input; keep the array until the stream has been waited for."""
        self._errors.clear()
        _check_shape(name, array.shape, self._ranges[name])
        if not self._context.set_input_shape(name, array.shape):
            raise self._failure(f"refused the shape {array.shape} of input {name}")
        self._device.copy_in(self._place(name, array.shape), array)

    def _place(self, name: str, shape: tuple[int, ...]) -> DeviceBuffer:
        """Return the tensor's memory on the device, made larger if the shape needs it."""
        size = self._size(name, shape)
        if name not in self._buffers or self._buffers[name].size < size:
            self._buffers[name] = self._device.buffer(size)
            if not self._context.set_tensor_address(name, self._buffers[name].address):
                raise self._failure(f"refused the memory of {name}")
        return self._buffers[name]

    def _size(self, name: str, shape: tuple[int, ...]) -> int:
        return math.prod(shape) * self._dtypes[name].itemsize

    def _failure(self, what: str) -> DeviceError:
        return DeviceError(f"TensorRT {what}: {reason(self._errors)}; check the GPU with nvidia-smi")


def open_plan(bundle: Bundle, role: str, lengths: Mapping[str, int] | None = None) -> TensorRtSession:
    """Check the plan of a bundle's network against everything it depends on, and load it.

    Parameters
    ----------
    bundle : Bundle
        Bundle with NAME.plan and NAME.plan.json next to NAME.onnx.
    role : str
        Name of the network in the manifest.
    lengths : mapping of str to int, optional
        Lengths of the axes that the operators decide.

    Returns
    -------
    TensorRtSession

    Raises
    ------
    BundleError
        If there is no plan, it is damaged, or was built from another ONNX file.
    PairingError
        If it was built for other lengths.
    ProviderError
        If the runtime is not installed or of another version, there is no GPU, or the plan is for another.
    """
    network = bundle.manifest.networks[role]
    path = plan_path(bundle.path, network)
    plan, metadata = read_plan(path)
    recipe = metadata.recipe
    try:
        recipe.require_network(role, network)
        recipe.require_lengths(lengths or {})
        tensorrt = import_tensorrt(recipe.runtime_module)
        recipe.require_version(tensorrt.version)
        device = CudaDevice()
        recipe.require_device(device.compute_capability)
        return TensorRtSession(plan, metadata, tensorrt, device)
    except (BundleError, PairingError, ProviderError) as error:
        raise type(error)(f"{path}: {error}") from error


def _check_tensors(engine: Any, module: Any, metadata: PlanMetadata) -> None:
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    modes = {name: engine.get_tensor_mode(name) for name in names}
    found = tuple(
        sorted(name for name in names if modes[name] == mode)
        for mode in (module.TensorIOMode.INPUT, module.TensorIOMode.OUTPUT)
    )
    expected = (sorted(metadata.recipe.inputs), sorted(metadata.recipe.outputs))
    if found != expected:
        raise BundleError(
            f"the plan has inputs {found[0]} and outputs {found[1]}; expected {expected}; {REBUILD}"
        )
    for name in names:
        dtype = metadata.dtypes.get(name)
        if dtype is None or engine.get_tensor_dtype(name) != getattr(module, dtype):
            raise BundleError(
                f"{name} of the plan is {engine.get_tensor_dtype(name)}; its metadata say {dtype}; {REBUILD}"
            )


def _check_shape(name: str, shape: tuple[int, ...], allowed: ShapeRange) -> None:
    if not allowed.holds(shape):
        raise PairingError(
            f"input {name} has shape {shape}; the plan was built for {allowed.minimum} to {allowed.maximum}; "
            "build it for this size: deqmpi-export tensorrt BUNDLE --operators OPERATORS.h5"
        )
