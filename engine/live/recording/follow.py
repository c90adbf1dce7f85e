"""Follower of a measurement file that another process is still writing.

Two kinds of files can be read while they grow: recordings of this library
(`engine.live.recording.growing_file`), and HDF5 files in SWMR mode (single writer, multiple readers) of a
scanner. In the latter the number of complete frames is the smallest of `/acquisition/numFrames`, the length
of `/measurement/data` and that of the background mask; so `numFrames` is to be written after each frame, or
beforehand as the number planned.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from engine.errors import MdfError
from engine.live.recording.contents import ACQUIRED, BACKGROUND, FRAMES, NO_TIME, SEQUENCE, STREAM
from engine.measurement.file_rows import require_same_acquisition
from engine.measurement.frame_rows import bins_in_use
from engine.measurement.raw_frame import RawFrame
from engine.mpi.mdf import MdfFile, read_mdf
from engine.mpi.mdf.model import Measurement
from engine.mpi.mdf.reading import read_open_mdf
from engine.mpi.mdf.recording_mark import COUNT, is_unfinished
from engine.mpi.mdf.spectra import acquisition_slots, bins, measurement_of
from engine.mpi.mdf.values import combined, damage_reported
from engine.operators.operators import Operators

POLL_S = 0.01
"""Time in s between two looks at the file: short beside the time of a frame."""

ROWS_AT_A_TIME = 16


def follow_frames(path: str | Path, operators: Operators, idle_s: float) -> Iterator[RawFrame]:
    """Yield the frames of a measurement as they come, background frames included.

    Parameters
    ----------
    path : path
        MDF measurement that is being written, or is about to be; a finished one gives all its frames at once.
    operators : Operators
        Operators that it must belong to.
    idle_s : float
        Seconds without a frame after which the file counts as complete.

    Yields
    ------
    RawFrame
        Frame with the values as stored, in the order of acquisition.

    Raises
    ------
    MdfError
        If no measurement has appeared after `idle_s`, or the file breaks the format.
    PairingError
        If it does not belong to the operators.
    """
    yield from FollowedMeasurement(path, operators, idle_s).frames()


class FollowedMeasurement:
    """A measurement file of which at least one frame is there.

    Parameters
    ----------
    path, operators, idle_s
        Parameters of `follow_frames`; the first frame is waited for.

    Attributes
    ----------
    header : MdfFile
        Metadata of the file, with the data of the first frame.
    """

    def __init__(self, path: str | Path, operators: Operators, idle_s: float) -> None:
        self._path, self._idle_s = Path(path), idle_s
        self._finished: MdfFile | None = None
        self.header = self._await_header()
        require_same_acquisition(self.header, operators.acquisition)
        bins_in_use(operators, bins(self.header))

    def frames(self) -> Iterator[RawFrame]:
        """Yield all frames, waiting for those to come."""
        if self._finished is not None:
            yield from _frames_of(self._finished)
            return
        n_seen, since = 0, time.monotonic()
        while True:
            rows, is_growing = self._rows(n_seen)
            yield from rows
            n_seen += len(rows)
            if rows:
                since = time.monotonic()
            elif not is_growing or time.monotonic() - since > self._idle_s:
                return
            else:
                time.sleep(POLL_S)

    def _await_header(self) -> MdfFile:
        since, reason = time.monotonic(), "there is no such file"
        while True:
            try:
                handle, is_growing = _open_growing(self._path)
            except OSError as error:
                reason = " ".join(str(error).split())
            else:
                with handle:
                    if not is_growing:
                        self._finished = read_mdf(self._path)
                        return _first_frame(self._finished)
                    reason = "it holds no frame yet"
                    if _n_complete(handle):
                        return _header(handle, self._path)
            if time.monotonic() - since > self._idle_s:
                raise MdfError(
                    f"{self._path}: {reason}, after {self._idle_s:g} s; expected an MDF measurement that is "
                    "being written; check the path, or wait longer with --idle"
                )
            time.sleep(POLL_S)

    def _rows(self, n_seen: int) -> tuple[list[RawFrame], bool]:
        """Return some of the frames not seen yet, and whether more may come."""
        try:
            handle, is_growing = _open_growing(self._path)
        except OSError:  # for a moment, while the file is closed or replaced by the finished one
            return [], True
        with handle, damage_reported(str(self._path)):
            last = min(_n_complete(handle), n_seen + ROWS_AT_A_TIME)
            return [self._row(handle, index) for index in range(n_seen, last)], is_growing

    def _row(self, handle: h5py.File, index: int) -> RawFrame:
        acquired = int(handle[ACQUIRED][index]) if ACQUIRED in handle else NO_TIME
        return RawFrame(
            sequence=int(handle[SEQUENCE][index]) if SEQUENCE in handle else index,
            data=combined(handle[FRAMES][index]),
            stream=str(handle[STREAM].asstr()[()]) if STREAM in handle else "",
            is_background=bool(handle[BACKGROUND][index]),
            bins=_bins(self.header),
            acquired_ns=None if acquired == NO_TIME else acquired,
        )


def _open_growing(path: Path) -> tuple[h5py.File, bool]:
    """Open a file that may be being written; `OSError` if it cannot be read at this moment."""
    try:
        handle = h5py.File(path, "r")
    except FileNotFoundError as error:
        raise FileNotFoundError("there is no such file") from error
    except OSError:
        return h5py.File(path, "r", swmr=True), True  # what a writer in SWMR mode has open
    return handle, is_unfinished(handle)


def _n_complete(handle: h5py.File) -> int:
    with suppress(KeyError):
        return min(int(handle[COUNT][()]), len(handle[FRAMES]), len(handle[BACKGROUND]))
    return 0


def _header(handle: h5py.File, path: Path) -> MdfFile:
    """Read the metadata of a growing file with its first frame, as a file of its own in memory."""
    names: list[str] = []
    handle.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    with h5py.File("header", "w", driver="core", backing_store=False) as copy:
        for name in (f"/{name}" for name in names if not name.rpartition("/")[2].startswith("_")):
            if name in (FRAMES, BACKGROUND):
                first = handle[name][:1]
                copy[name] = first if name == FRAMES else np.zeros_like(first)
            elif name != COUNT:
                copy[name] = handle[name].asstr()[()] if _is_text(handle[name]) else handle[name][()]
        copy[COUNT] = np.int64(1)
        try:
            file = read_open_mdf(copy)
        except MdfError as error:
            raise MdfError(f"{path}: {error}") from error
    measurement = measurement_of(file)
    if measurement.is_fast_frame_axis or measurement.is_frame_permutation:
        raise MdfError(
            f"{path}: a file that grows has isFastFrameAxis or isFramePermutation 1; expected frames along "
            "the first axis in the order of acquisition; wait until it is complete"
        )
    return file


def _is_text(dataset: h5py.Dataset) -> bool:
    return h5py.check_string_dtype(dataset.dtype) is not None


def _first_frame(file: MdfFile) -> MdfFile:
    ordered = _in_order(file)
    first = replace(ordered, data=ordered.data[:1], is_background_frame=np.zeros(1, np.bool_))
    return replace(file, acquisition=replace(file.acquisition, num_frames=1), measurement=first)


def _in_order(file: MdfFile) -> Measurement:
    """Return the frames along the first axis, in the order of acquisition."""
    measurement = measurement_of(file)
    data = np.moveaxis(measurement.data, -1, 0) if measurement.is_fast_frame_axis else measurement.data
    order = np.argsort(acquisition_slots(file))
    return replace(
        measurement,
        data=combined(data[order]),
        is_background_frame=measurement.is_background_frame[order],
        is_fast_frame_axis=False,
        is_frame_permutation=False,
        frame_permutation=None,
    )


def _frames_of(file: MdfFile) -> Iterator[RawFrame]:
    measurement, columns = _in_order(file), _bins(file)
    for index, (data, mask) in enumerate(zip(measurement.data, measurement.is_background_frame, strict=True)):
        yield RawFrame(sequence=index, data=data, is_background=bool(mask), bins=columns)


def _bins(file: MdfFile) -> NDArray[np.int64] | None:
    return bins(file) if measurement_of(file).is_frequency_selection else None
