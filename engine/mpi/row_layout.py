"""The rows of a system matrix that are used, where they lie, and what a measurement must share with it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RowLayout:
    """Place of each selected complex row in the dense layout on which the LC block convolves.

    Attributes
    ----------
    shape : tuple of int
        (n_lines, n_bins): one line per (period, receive channel), one column per frequency bin.
        FFL: angle x frequency. FFP: receive channel x frequency.
    index : ndarray of int64, shape (M,)
        Position of each selected complex row in the flattened dense layout, strictly increasing.
    """

    shape: tuple[int, int]
    index: NDArray[np.int64]

    @property
    def n_rows(self) -> int:
        """Number M of selected complex rows."""
        return len(self.index)

    @cached_property
    def mask(self) -> NDArray[np.float32]:
        """Mask of the layout, float32 of shape `shape`: 1 where a row is selected, else 0."""
        mask = np.zeros(self.shape, np.float32)
        mask.reshape(-1)[self.index] = 1.0
        return mask

    def scatter(self, rows: NDArray[np.floating]) -> NDArray[np.float32]:
        """Place real rows (..., 2M) in the dense layout, float32 (..., 2, n_lines, n_bins), else zero."""
        dense = np.zeros((*rows.shape[:-1], 2, self.shape[0] * self.shape[1]), np.float32)
        dense[..., self.index] = rows.reshape(*rows.shape[:-1], 2, self.n_rows)
        return dense.reshape(*rows.shape[:-1], 2, *self.shape)

    def gather(self, dense: NDArray[np.floating]) -> NDArray[np.floating]:
        """Take the selected rows (..., 2M) out of the dense layout (..., 2, n_lines, n_bins) of any type."""
        flat = dense.reshape(*dense.shape[:-2], -1)[..., self.index]
        return flat.reshape(*flat.shape[:-2], 2 * self.n_rows)


@dataclass(frozen=True)
class Acquisition:
    """Settings that a measurement must share with the system matrix for the two to belong together.

    Attributes
    ----------
    bandwidth : float
        Receiver bandwidth in Hz.
    n_samples : int
        Samples V per period; bins are 2 bandwidth / V apart.
    n_periods, n_channels : int
        J and C of the files.
    channels : ndarray of int64, shape (n_selected,)
        Selected receive channels, 0-based.
    bins : ndarray of int64, shape (n_bins,)
        Frequency bins of the dense layout's columns, 0-based on the full rfft axis, increasing.
    unit : str
        Unit of the received signal.
    is_transfer_function_corrected : bool
        Whether the spectra were divided by the transfer function of the receive chain.
    """

    bandwidth: float
    n_samples: int
    n_periods: int
    n_channels: int
    channels: NDArray[np.int64]
    bins: NDArray[np.int64]
    unit: str = "V"
    is_transfer_function_corrected: bool = False
