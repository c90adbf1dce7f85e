"""An array that stays at one address on a device, for ONNX Runtime to read and write in place."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


class DeviceTensor:
    """A contiguous array in the memory of a device; its address never changes.

    Parameters
    ----------
    values : ndarray of any shape and type, C-contiguous
        First content. On the device "cpu" the tensor is this array itself; elsewhere it is a copy.
    device : str
        Device: "cpu" or "cuda".
    """

    def __init__(self, values: NDArray[Any], device: str) -> None:
        from onnxruntime import OrtValue

        self._values = values  # the runtime borrows it on the CPU and does not keep it alive
        self._ort_value = OrtValue.ortvalue_from_numpy(values, device, 0)
        self.shape: tuple[int, ...] = values.shape
        self.dtype: np.dtype[Any] = values.dtype

    @property
    def ort_value(self) -> Any:
        """The runtime's own handle."""
        return self._ort_value

    def row_address(self, row: int) -> int:
        """Return where row `row` of the first axis begins in the memory of the device."""
        row_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        return int(self._ort_value.data_ptr()) + row * row_bytes

    def write(self, values: NDArray[Any]) -> None:
        """Copy values of the tensor's shape and type from the host."""
        self._ort_value.update_inplace(np.ascontiguousarray(values, self.dtype).reshape(self.shape))

    def read(self) -> NDArray[Any]:
        """Copy the values to the host, in the tensor's shape and type."""
        return np.array(self._ort_value.numpy())
