"""One frame as a scanner hands it over."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class RawFrame:
    """One frame of a stream, not corrected in any way.

    Attributes
    ----------
    sequence : int
        Number within the stream, from 0; it grows by 1 from frame to frame, background frames included.
    data : ndarray
        Complex: unnormalised forward FFT of each period, shape (J, C, K). Real: time signals, shape
        (J, C, V), in the unit of the calibration or as raw counts.
    stream : str
        Name that the producer gives to one uninterrupted run; a new name restarts the numbers.
    is_background : bool
        Whether it is a background frame: taken with the scanner empty.
    bins : ndarray of int64, shape (K,), optional
        Bins of spectra, 0-based on the full axis, increasing. None for the full axis (V // 2 + 1), or else
        for the bins of the calibration.
    acquired_ns : int, optional
        Time of the acquisition on the producer's clock: nanoseconds since 1970-01-01 UTC.
    """

    sequence: int
    data: NDArray[np.number]
    stream: str = ""
    is_background: bool = False
    bins: NDArray[np.int64] | None = None
    acquired_ns: int | None = None
