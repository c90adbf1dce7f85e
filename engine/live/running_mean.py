"""The mean of all frames so far, without keeping them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


class RunningMean:
    """Mean in double precision of arrays of one shape, each counting the same."""

    def __init__(self) -> None:
        self.n_values = 0
        self._sum: NDArray[Any] | None = None

    def add(self, values: NDArray[np.number]) -> None:
        """Take another array into the mean."""
        is_complex = values.dtype.kind == "c"
        wide = values.astype(np.complex128 if is_complex else np.float64)
        self._sum = wide if self._sum is None else self._sum + wide
        self.n_values += 1

    @property
    def value(self) -> NDArray[Any] | None:
        """The mean; None before the first array."""
        return None if self._sum is None else self._sum / self.n_values
