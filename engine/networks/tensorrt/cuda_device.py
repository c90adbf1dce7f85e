"""Memory, copies and the stream of one CUDA device, through NVIDIA's `cuda-bindings`.

Every call of the CUDA runtime returns an error code first; none goes unread.
"""

import importlib
import weakref
from typing import Any

from numpy.typing import NDArray

from engine.errors import DeviceError, ProviderError

MODULE = "cuda.bindings.runtime"


class CudaDevice:
    """The first CUDA device, with a stream of its own.

    After its construction every method raises DeviceError if CUDA reports an error.

    Raises
    ------
    ProviderError
        If `cuda-bindings` is not installed, or there is no device or driver.
    """

    def __init__(self) -> None:
        try:
            self._runtime = importlib.import_module(MODULE)
        except ImportError as error:
            raise ProviderError(
                "cuda-bindings, through which plans run, is not installed; pip install 'deq-mpi[tensorrt]'"
            ) from error
        status, count = self._runtime.cudaGetDeviceCount()
        if status != self._runtime.cudaError_t.cudaSuccess or count == 0:
            found = self._text(status) if count is None else "no device"
            raise ProviderError(
                f"no CUDA device can be used here ({found}); TensorRT needs an NVIDIA GPU and its driver: "
                "check nvidia-smi, or use another machine or provider"
            )
        self._call("cudaSetDevice", 0)
        self.stream = self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking)
        weakref.finalize(self, self._runtime.cudaStreamDestroy, self.stream)

    @property
    def compute_capability(self) -> str:
        """Generation of the GPU, such as "8.9"."""
        attribute = self._runtime.cudaDeviceAttr
        major = self._call("cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMajor, 0)
        minor = self._call("cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMinor, 0)
        return f"{major}.{minor}"

    def buffer(self, size: int) -> "DeviceBuffer":
        """Allocate device memory of `size` bytes; freed with the object."""
        return DeviceBuffer(self._call("cudaMalloc", size), size, self._runtime.cudaFree)

    def copy_in(self, buffer: "DeviceBuffer", array: NDArray[Any]) -> None:
        """Queue the copy of a contiguous array of any type to the device; keep it until `synchronize`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(buffer.address, array.ctypes.data, array, buffer, kind)

    def copy_out(self, array: NDArray[Any], buffer: "DeviceBuffer") -> None:
        """Queue the copy from the device into a contiguous array of any type, until `synchronize`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(array.ctypes.data, buffer.address, array, buffer, kind)

    def copy_across(self, target: "DeviceBuffer", offset: int, source: "DeviceBuffer", size: int) -> None:
        """Queue the copy of the first `size` bytes of a buffer to an offset in another."""
        if size > source.size or offset + size > target.size:
            raise ValueError(
                f"{size} bytes are to go to {offset} of {target.size}; expected as many there and in the "
                f"{source.size} bytes that they come from"
            )
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._call("cudaMemcpyAsync", target.address + offset, source.address, size, kind, self.stream)

    def synchronize(self) -> None:
        """Wait until everything queued has been done."""
        self._call("cudaStreamSynchronize", self.stream)

    def _copy(self, target: int, source: int, array: NDArray[Any], buffer: "DeviceBuffer", kind: Any) -> None:
        if not array.flags.c_contiguous or array.nbytes > buffer.size:
            raise ValueError(
                f"the array has {array.nbytes} bytes, strides {array.strides}; expected a contiguous one of "
                f"at most {buffer.size} bytes"
            )
        self._call("cudaMemcpyAsync", target, source, array.nbytes, kind, self.stream)

    def _call(self, function: str, *arguments: Any) -> Any:
        """Call the CUDA runtime; return its result, None if it has none."""
        status, *results = getattr(self._runtime, function)(*arguments)
        if status != self._runtime.cudaError_t.cudaSuccess:
            raise DeviceError(f"{function} failed: {self._text(status)}; check the GPU with nvidia-smi")
        return results[0] if results else None

    def _text(self, status: Any) -> str:
        _, text = self._runtime.cudaGetErrorString(status)
        return str(text.decode("utf-8", "replace"))


class DeviceBuffer:
    """Memory of a CUDA device, freed with this object.

    Attributes
    ----------
    address : int
        Address on the device.
    size : int
        Length in bytes.
    """

    def __init__(self, address: int, size: int, free: Any) -> None:
        self.address = int(address)
        self.size = size
        weakref.finalize(self, free, address)
