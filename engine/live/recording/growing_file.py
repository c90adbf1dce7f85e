"""An MDF file that gets longer row by row and is intact at every moment.

The file is laid out once, for as many frames as it can ever hold, and closed; the parts not yet written take
no space on disk (a sparse file). From then on HDF5 has no part in it: a frame is bytes written at their
place, and the number of frames, written last, says how many are complete. So no kill can leave the structure
of the file torn, as it can with an HDF5 library at work, and a full disk is an error of one write.

`engine.live.recording.finish` makes an ordinary MDF file of it.
"""

import errno
import fcntl
import json
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from engine.errors import RecordingError
from engine.mpi.mdf.model import MdfFile
from engine.mpi.mdf.recording_mark import COUNT, LENGTHS, MARK
from engine.mpi.mdf.schema import walk
from engine.mpi.mdf.writing import store_value

SCHEMA = 1
"""Version of the content of `MARK`."""

METADATA_BYTES = 2**20
"""Bound in bytes of everything in the file beside the frames, a generous one."""


@dataclass(frozen=True)
class Column:
    """A dataset with one row per frame.

    Attributes
    ----------
    name : str
        Path of the dataset.
    dtype : dtype
        Type of the values, little-endian; of kind "S" for UTF-8 texts of at most that length.
    shape : tuple of int
        Shape of one row.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()

    @property
    def row_bytes(self) -> int:
        """Length of one row in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class GrowingFile:
    """A recording that is being written, by one process.

    Parameters
    ----------
    path : Path
        Path at which it appears with its first frame; there must be nothing.
    content : MdfFile
        Metadata; data that belong to a column may be those of one frame.
    columns : sequence of Column
        Columns of what every frame brings.
    extras : mapping of str to object
        Datasets by path that are the same for all frames: texts and numbers.
    capacity : int
        Number of frames it shall hold; fewer where the file system allows no file of that length.

    Raises
    ------
    OSError
        If the file cannot be made.
    """

    def __init__(
        self,
        path: Path,
        content: MdfFile,
        columns: Sequence[Column],
        extras: Mapping[str, Any],
        capacity: int,
    ) -> None:
        self.path = path
        self.n_frames = 0
        self._columns = _with_lengths(columns)
        self._temporary: Path | None = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial.mdf")
        self._file = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            # Shared, so that anyone may read; who wants to recover the file asks for it alone.
            fcntl.flock(self._file, fcntl.LOCK_SH)
            self.capacity = self._largest_capacity(capacity)
            self._offsets = self._lay_out(content, extras)
        except BaseException:
            self.close()
            raise

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a frame.

        Parameters
        ----------
        row : mapping of str to array or str
            Value of each column.

        Raises
        ------
        OSError
            If it cannot be written, as on a full disk. The frames before it are safe; close the file then.
        RecordingError
            If the file is full, or a value is not of its column.
        """
        if self.is_full:
            raise RecordingError(
                f"{self.path.name} holds {self.capacity} frames, expected room; begin another"
            )
        for name, value in _encoded(row, self._columns).items():
            self._write(value, self._offsets[name] + self.n_frames * self._columns[name].row_bytes)
        # The commit: what is counted is complete.
        self._write(np.array(self.n_frames + 1, "<i8").tobytes(), self._offsets[COUNT])
        self.n_frames += 1
        if self._temporary is not None:
            os.rename(self._temporary, self.path)
            self._temporary = None

    @property
    def is_full(self) -> bool:
        """Whether no frame fits any more."""
        return self.n_frames >= self.capacity

    def close(self) -> None:
        """Let go of the file; without a frame, it disappears."""
        if self._file < 0:
            return
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)
        os.close(self._file)
        self._file = -1

    def _largest_capacity(self, capacity: int) -> int:
        """Return how many frames the longest file allowed here can hold; its length costs no space."""
        row = sum(column.row_bytes for column in self._columns.values())
        while True:
            try:
                os.ftruncate(self._file, METADATA_BYTES + capacity * row)
                os.ftruncate(self._file, 0)
            except OSError as error:
                if error.errno != errno.EFBIG or capacity == 1:
                    raise
                capacity = max(1, capacity // 2)
            else:
                return capacity

    def _lay_out(self, content: MdfFile, extras: Mapping[str, Any]) -> dict[str, int]:
        mark = {
            "schema": SCHEMA,
            "capacity": self.capacity,
            "columns": [name for name in self._columns if not name.endswith(LENGTHS)],
        }
        # Without a lock of HDF5's own, which would be refused beside the shared one.
        with h5py.File(
            self._temporary, "w", locking=False, alignment_threshold=1, alignment_interval=8
        ) as handle:
            for name, field, value in walk(content):
                if name not in self._columns and name != COUNT and (value is not None or field.required):
                    store_value(handle, name, field, value)
            for name, value in extras.items():
                handle[name] = value
            handle[MARK] = json.dumps(mark)
            offsets = {
                name: _reserve(handle, name, column.dtype, (self.capacity, *column.shape))
                for name, column in self._columns.items()
            }
            # Aligned, so that its bytes are written together or not at all.
            offsets[COUNT] = _reserve(handle, COUNT, np.dtype("<i8"), ())
        self._write(bytes(8), offsets[COUNT])
        return offsets

    def _write(self, data: bytes, offset: int) -> None:
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._file, rest, offset)
            rest, offset = rest[written:], offset + written

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            self.close()


def _with_lengths(columns: Sequence[Column]) -> dict[str, Column]:
    """Return the columns by name, those of texts followed by one with the bytes of each text."""
    found: dict[str, Column] = {}
    for column in columns:
        found[column.name] = column
        if column.dtype.kind == "S":
            found[column.name + LENGTHS] = Column(column.name + LENGTHS, np.dtype("<i4"))
    return found


def _encoded(row: Mapping[str, Any], columns: Mapping[str, Column]) -> dict[str, bytes]:
    expected = {name for name in columns if not name.endswith(LENGTHS)}
    if row.keys() != expected:
        raise RecordingError(f"a frame with {sorted(row)} was given; expected {sorted(expected)}; give all")
    encoded: dict[str, bytes] = {}
    for name, value in row.items():
        column = columns[name]
        if column.dtype.kind == "S":
            text = str(value).encode()
            if len(text) > column.dtype.itemsize:
                raise RecordingError(
                    f"{name} has {len(text)} bytes; expected at most {column.dtype.itemsize}; shorten it"
                )
            encoded[name] = text
            encoded[name + LENGTHS] = np.array(len(text), "<i4").tobytes()
        else:
            encoded[name] = _values(value, column).tobytes()
    return encoded


def _values(value: Any, column: Column) -> NDArray[Any]:
    values = np.asarray(value)
    if values.shape != column.shape:
        raise RecordingError(
            f"{column.name} has shape {values.shape}; expected {column.shape} as in the first frame"
        )
    return values.astype(column.dtype, copy=False)


def _reserve(handle: h5py.File, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """Give a dataset its place in the file without writing to it, and return where that is."""
    is_text = dtype.kind == "S"
    stored = h5py.string_dtype("utf-8", dtype.itemsize) if is_text else dtype
    group, _, leaf = name.rpartition("/")
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    dataset = h5py.h5d.create(
        handle.require_group(group or "/").id,
        leaf.encode(),
        h5py.h5t.py_create(stored, logical=True),
        h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR),
        dcpl=layout,
    )
    return int(dataset.get_offset())
