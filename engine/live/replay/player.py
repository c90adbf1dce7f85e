"""Player of the frames of a measurement file, as a scanner would send them."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError
from engine.measurement.raw_frame import RawFrame
from engine.mpi.mdf import MdfFile
from engine.mpi.mdf.spectra import acquisition_slots, background_mask, bins, measurement_of
from engine.mpi.mdf.values import combined


@dataclass(frozen=True, eq=False)
class MeasuredFrames:
    """The frames of a file in the order of acquisition, in the unit of the receiver.

    Attributes
    ----------
    frames : ndarray, shape (N, J, C, K) complex64 or (N, J, C, V) float32
        Spectra or time signals.
    is_background : ndarray of bool, shape (N,)
        Background frames.
    bins : ndarray of int64, shape (K,), or None
        Bins of spectra, increasing.
    """

    frames: NDArray[np.complex64 | np.float32]
    is_background: NDArray[np.bool_]
    bins: NDArray[np.int64] | None

    def frame(self, index: int, sequence: int, stream: str) -> RawFrame:
        """Return a frame under another number, stamped with the present time."""
        return RawFrame(
            sequence=sequence,
            data=self.frames[index],
            stream=stream,
            is_background=bool(self.is_background[index]),
            bins=self.bins,
            acquired_ns=time.time_ns(),
        )


def measured_frames(file: MdfFile) -> MeasuredFrames:
    """Prepare the frames of a measurement for playing.

    Parameters
    ----------
    file : MdfFile
        File of a measurement; its conversion factor is applied.

    Raises
    ------
    MdfError
        If it holds no measurement.
    """
    measurement, factors = measurement_of(file), file.acquisition.receiver.data_conversion_factor
    data = np.moveaxis(measurement.data, -1, 0) if measurement.is_fast_frame_axis else measurement.data
    data = data[np.argsort(acquisition_slots(file))]
    mask = background_mask(file)[np.argsort(acquisition_slots(file))]
    if not measurement.is_fourier_transformed:
        signals = data if factors is None else factors[:, :1] * data + factors[:, 1:]
        return MeasuredFrames(np.ascontiguousarray(signals, np.float32), mask, None)
    spectra, stored = combined(data), bins(file)
    if factors is not None:
        spectra = factors[:, :1] * spectra  # the offset reaches bin 0 only, and goes with the background
    order = np.argsort(stored)
    return MeasuredFrames(np.ascontiguousarray(spectra[..., order], np.complex64), mask, stored[order])


def play(measured: MeasuredFrames, rate: float, seconds: float, stream: str) -> Iterator[RawFrame]:
    """Yield frames at a rate: those of the file once, then its frames of the object over and over.

    The clock is kept over the whole time, so a frame that is fetched late does not delay those after it.

    Parameters
    ----------
    measured : MeasuredFrames
        What to play.
    rate : float
        Frames per second.
    seconds : float
        For how long frames of the object are played, after the background frames that the file begins with.
    stream : str
        Name of the run.

    Raises
    ------
    InputError
        If the file holds no frame of the object, or rate or time are not positive.
    """
    foreground = np.flatnonzero(~measured.is_background)
    if not len(foreground):
        raise InputError(
            "the measurement holds background frames only; expected some of an object; play another one"
        )
    if not (rate > 0 and seconds > 0):
        raise InputError(f"rate is {rate} and time is {seconds} s; expected positive numbers")
    n_leading = int(foreground[0])
    n_frames = n_leading + max(1, round(rate * seconds))
    began = time.perf_counter()
    for sequence in range(n_frames):
        time.sleep(max(0.0, began + sequence / rate - time.perf_counter()))
        first_pass = sequence < len(measured.frames)
        index = sequence if first_pass else foreground[(sequence - len(measured.frames)) % len(foreground)]
        yield measured.frame(int(index), sequence, stream)
