"""Files of a recording, one after the other: which one a frame goes into, and when a new one begins."""

from collections.abc import Callable, Hashable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from engine.live.recording.contents import FileContent
from engine.live.recording.growing_file import GrowingFile


class FileKind(StrEnum):
    """Kind of a file, by what it holds: the ending of its name."""

    RAW = "raw"
    IMAGES = "images"


class FileNames:
    """New names in a folder: time, session and a running number, nothing from outside.

    Parameters
    ----------
    folder : Path
        Folder of the files.
    session : str
        Random letters that no other process uses, so that two may record into one folder.
    """

    def __init__(self, folder: Path, session: str) -> None:
        self._folder, self._session = folder, session
        self._number = 0

    def next(self, kind: FileKind) -> Path:
        """Return a name that is free; names sort by time."""
        self._number += 1
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        return self._folder / f"{stamp}Z-{self._number:05d}-{self._session}-{kind.value}.mdf"


def session_files(folder: Path, session: str, kind: FileKind) -> list[Path]:
    """Return the files of one kind that a session has made."""
    return sorted(folder.glob(f"[!.]*-{session}-{kind.value}.mdf"))


class FileSeries:
    """Files of one kind, of which at most one is being written.

    Parameters
    ----------
    kind : FileKind
        Kind of the files.
    names : FileNames
        Names, shared by the kinds.
    frames_per_file : int
        Number of frames after which the next file begins.
    on_closed : callable
        Function that gets the path of every file that will not grow any more and holds frames.
    """

    def __init__(
        self,
        kind: FileKind,
        names: FileNames,
        frames_per_file: int,
        on_closed: Callable[[Path], None],
    ) -> None:
        self.counts: dict[str, int] = {}
        self._kind, self._names, self._frames_per_file = kind, names, frames_per_file
        self._on_closed = on_closed
        self._file: GrowingFile | None = None
        self._key: Hashable = None

    @property
    def key(self) -> Hashable:
        """Key that the frames of the open file have in common; None without one."""
        return self._key

    def append(self, key: Hashable, content: Callable[[], FileContent], row: Mapping[str, Any]) -> None:
        """Write a frame to the open file, or to a new one if that is full or of another key.

        Raises
        ------
        OSError
            If it cannot be written. No file is open then.
        DeqMpiError
            If the frame cannot be in such a file. The open file stays so.
        """
        if self._file is None or self._file.is_full or key != self._key:
            begun = content()  # first of all: a frame that fits nowhere must not end the open file
            self.close()
            self._begin(key, begun)
        if self._file is None:
            return
        try:
            self._file.append(row)
            self.counts[self._file.path.name] = self._file.n_frames
        except OSError:
            self.close()
            raise
        finally:
            if self._file is not None and self._file.n_frames == 0:
                self.close()

    def close(self) -> None:
        """End the open file."""
        if self._file is None:
            return
        file, self._file, self._key = self._file, None, None
        file.close()
        if file.n_frames:
            self._on_closed(file.path)

    def _begin(self, key: Hashable, content: FileContent) -> None:
        path = self._names.next(self._kind)
        self._file = GrowingFile(
            path, content.metadata, content.columns, content.extras, self._frames_per_file
        )
        self._key = key
