"""Ordinary MDF files made of recordings: contiguous, as long as what was recorded, without the mark.

The recording itself is not changed; the new file takes its name when it is complete. So nothing is lost when
this is interrupted, and it can be done again.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from engine.errors import RecordingError
from engine.live.recording.growing_file import METADATA_BYTES
from engine.machine.atomic_write import atomic_path
from engine.mpi.mdf.recording_mark import COUNT, LENGTHS, MARK, is_unfinished
from engine.mpi.mdf.safety import check_source
from engine.mpi.mdf.values import damage_reported

BLOCK_BYTES = 2**22
"""Bytes copied at a time."""

LOCK_WAIT_S = 2.0
"""Time in s for which somebody who reads the file is waited for."""

BACKGROUND = "/measurement/isBackgroundFrame"


@dataclass(frozen=True)
class FinishedRecording:
    """A recording that is an ordinary MDF file now.

    Attributes
    ----------
    path : Path
        Path of the file.
    n_frames : int
        Number of frames or images in it.
    note : str
        Note for its reader; mostly empty.
    """

    path: Path
    n_frames: int
    note: str = ""


def recover_recording(path: str | os.PathLike[str]) -> FinishedRecording:
    """Turn what a recording holds into an ordinary MDF file of the same name.

    Parameters
    ----------
    path : path
        File of a recording whose process was killed, or whose disk was full.

    Returns
    -------
    FinishedRecording
        File with every frame that was complete.

    Raises
    ------
    RecordingError
        If the file is no unfinished recording, is being written or read, or holds no frame.
    MdfError
        If it is damaged.
    """
    steps = finish_in_steps(Path(path))
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: FinishedRecording = end.value
            return found


def recover_folder(folder: str | os.PathLike[str]) -> list[FinishedRecording]:
    """Recover every recording of a folder that nobody is writing, and remove what never held a frame.

    Raises
    ------
    RecordingError, MdfError
        As `recover_recording`.
    """
    found = [recover_recording(path) for path in unfinished_recordings(Path(folder))]
    remove_leftovers(Path(folder))
    return found


def unfinished_recordings(folder: Path) -> list[Path]:
    """Return the recordings in a folder that were not finished and that nobody is writing."""
    return [path for path in sorted(folder.glob("[!.]*.mdf")) if _is_recording(path) and not _is_locked(path)]


def remove_leftovers(folder: Path) -> None:
    """Remove files of recordings that were killed before their first frame, or while they were finished."""
    for path in folder.glob(".*.partial.mdf"):
        stem = path.name.removeprefix(".").removesuffix(".partial.mdf").rpartition(".")[0]
        final = folder / f"{stem}.mdf"
        if not _is_locked(path) and not (final.exists() and _is_locked(final)):
            path.unlink(missing_ok=True)


def finish_in_steps(path: Path) -> Generator[None, None, FinishedRecording]:
    """Recover a recording as `recover_recording` does, a block per step, with time for other work between."""
    if not path.is_file():
        raise RecordingError(f"{path} does not exist; expected a recording; check the path")
    with _claimed(path):
        if not _is_recording(path):
            raise RecordingError(f"{path} is no unfinished recording; expected one; nothing has to be done")
        # The claim is a lock on the file, beside which HDF5 needs none of its own.
        with damage_reported(str(path)):
            source = h5py.File(path, "r", locking=False)
        with source:
            with damage_reported(str(path)):
                columns, n_frames = _extent(source, path)
                note = _note(source, n_frames)
            _require_space(path, source, columns, n_frames)
            try:
                with atomic_path(path) as temporary:
                    with h5py.File(temporary, "w", locking=False) as target:
                        for name in _names(source):
                            if name in columns:
                                yield from _copy_rows(source, target, name, n_frames)
                            elif name != MARK and name.removesuffix(LENGTHS) not in columns:
                                source.copy(name, target.require_group(name.rpartition("/")[0] or "/"))
                    yield
            except (OSError, RuntimeError) as error:
                raise RecordingError(
                    f"{path} cannot be finished ({' '.join(str(error).split())}); expected an intact file "
                    "and space for a copy; it is as it was, run engine recover later"
                ) from error
    return FinishedRecording(path, n_frames, note)


def _extent(source: h5py.File, path: Path) -> tuple[frozenset[str], int]:
    try:
        mark = json.loads(source[MARK].asstr()[()])
        columns, capacity = frozenset(mark["columns"]), int(mark["capacity"])
    except (ValueError, KeyError, TypeError) as error:
        raise RecordingError(
            f"{path}: {MARK} cannot be read ({error}); expected JSON; is it ours?"
        ) from error
    n_frames = int(source[COUNT][()])
    if not 1 <= n_frames <= capacity:
        raise RecordingError(f"{path} holds {n_frames} frames; expected 1 to {capacity}; it is damaged")
    return columns, n_frames


def _require_space(path: Path, source: h5py.File, columns: frozenset[str], n_frames: int) -> None:
    """Ask for the space of the new file before making it: HDF5 does not take a full disk well."""
    needed = METADATA_BYTES
    for name in columns:
        dataset = source[name]
        is_text = h5py.check_string_dtype(dataset.dtype) is not None
        row = int(source[name + LENGTHS][:n_frames].max()) if is_text else dataset.nbytes // len(dataset)
        needed += n_frames * row
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise RecordingError(
            f"{path} cannot be finished: {free} bytes are free on its disk, expected {needed} for a copy; "
            "free some and run engine recover"
        )


def _names(source: h5py.File) -> list[str]:
    """Return all datasets; one with values in other files is refused, and links are passed over."""
    names: list[str] = []
    source.visititems(lambda name, item: names.append(f"/{name}") if isinstance(item, h5py.Dataset) else None)
    for name in names:
        check_source(source[name])
    return names


def _copy_rows(source: h5py.File, target: h5py.File, name: str, n_frames: int) -> Generator[None, None, None]:
    dataset = source[name]
    if h5py.check_string_dtype(dataset.dtype) is not None:
        target.create_dataset(name, data=_texts(source, name, n_frames))
        return
    shape = (n_frames, *dataset.shape[1:])
    rows = max(1, BLOCK_BYTES * dataset.shape[0] // max(1, dataset.nbytes))
    copy = target.create_dataset(name, shape, dataset.dtype)
    for first in range(0, n_frames, rows):
        last = min(first + rows, n_frames)
        copy[first:last] = dataset[first:last]
        yield


def _texts(source: h5py.File, name: str, n_frames: int) -> Any:
    """Return the texts of a growing dataset as an array of fixed length, that of the longest of them."""
    lengths = source[name + LENGTHS][:n_frames]
    dataset = source[name]
    width, offset = dataset.dtype.itemsize, dataset.id.get_offset()
    longest = int(np.clip(lengths, 1, width).max())
    # Most of a row was never written; reading the whole of it would take a hundred times as long.
    with Path(source.filename).open("rb") as file:
        rows = [
            os.pread(file.fileno(), min(int(length), width), offset + index * width)
            for index, length in enumerate(lengths)
        ]
    return np.array(rows, dtype=h5py.string_dtype("utf-8", longest))


def _note(source: h5py.File, n_frames: int) -> str:
    if BACKGROUND in source and bool(np.all(source[BACKGROUND][:n_frames])):
        return "it holds background frames only, so there is nothing in it to reconstruct"
    return ""


def frame_count(path: Path) -> tuple[int, bool]:
    """Return how many frames or images a file of a recording holds, and whether it is finished."""
    with damage_reported(str(path)), h5py.File(path, "r", locking=False) as handle:
        return int(handle[COUNT][()]), not is_unfinished(handle)


def _is_recording(path: Path) -> bool:
    try:
        with h5py.File(path, "r", locking=False) as handle:
            return is_unfinished(handle)
    except (OSError, RuntimeError):
        return False


@contextmanager
def _claimed(path: Path) -> Generator[None, None, None]:
    """Hold the file as one that nobody writes; readers and further claims stay possible."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + LOCK_WAIT_S
        while not _locked_alone(file):
            if time.monotonic() > until:
                raise RecordingError(
                    f"{path} is being recorded or read by another process; expected one that nobody uses; "
                    "end that process first"
                )
            time.sleep(0.02)
        fcntl.flock(file, fcntl.LOCK_SH)
        yield
    finally:
        os.close(file)


def _is_locked(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _locked_alone(file)
    finally:
        os.close(file)


def _locked_alone(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
