"""The snapshots of a running page: their names, and where they lie.

Names are made here, and only files that this process wrote under such a name are ever given out, so that no
request can name another file.
"""

import re
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from engine.errors import InputError
from engine.live.view.feed import ReceivedImage
from engine.live.view.snapshot_formats import unknown_origin, write_mdf_image, write_nifti, write_png
from engine.machine.atomic_write import atomic_path
from engine.mpi.mdf import MdfFile


class SnapshotKind(StrEnum):
    """Kinds of files; the value is the suffix."""

    PNG = "png"
    MDF = "mdf"
    NIFTI = "nii"


NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9]{4,9}\.(png|mdf|nii)", re.ASCII)
"""Name of a snapshot: UTC time, number, suffix."""


@dataclass(frozen=True)
class Snapshot:
    """One snapshot: a file in the folder.

    Attributes
    ----------
    name : str
        Name inside the folder.
    kind : SnapshotKind
        Format of the file.
    sequence : int
        Number of the frame it shows.
    n_bytes : int
        Size of the file.
    """

    name: str
    kind: SnapshotKind
    sequence: int
    n_bytes: int


class SnapshotFolder:
    """A folder for snapshots; safe to use from several threads.

    Parameters
    ----------
    folder : Path
        Folder, created with the first snapshot.
    metadata : MdfFile, optional
        File whose metadata MDF snapshots get; by default a note that nothing is known.
    """

    def __init__(self, folder: Path, metadata: MdfFile | None = None) -> None:
        self.folder = folder.resolve()
        self._metadata = metadata
        self._written: dict[str, Snapshot] = {}
        self._n = 0
        self._lock = threading.Lock()

    def save(self, kind: SnapshotKind, image: ReceivedImage) -> Snapshot:
        """Write an image; one at a time, complete or not at all.

        Raises
        ------
        InputError
            If the folder cannot be made or the format cannot hold the image.
        OSError
            If the disk is full or the folder is not ours to write to.
        """
        with self._lock:
            try:
                self.folder.mkdir(exist_ok=True)
            except (FileNotFoundError, FileExistsError, NotADirectoryError) as error:
                raise InputError(
                    f"cannot make the folder {self.folder} ({error.strerror}); give another with --snapshots"
                ) from error
            name = self._new_name(kind)
            target = self.folder / name
            with atomic_path(target) as temporary:
                match kind:
                    case SnapshotKind.PNG:
                        write_png(temporary, image)
                    case SnapshotKind.MDF:
                        write_mdf_image(temporary, image, self._metadata or unknown_origin())
                    case SnapshotKind.NIFTI:
                        write_nifti(temporary, image)
            snapshot = Snapshot(name, kind, image.sequence, target.stat().st_size)
            self._written[name] = snapshot
            return snapshot

    def list_all(self) -> list[Snapshot]:
        """Return what this process wrote, oldest first."""
        return list(self._written.values())

    def find(self, name: str) -> Path | None:
        """Return the file of a snapshot; None for everything that this process did not write."""
        if NAME.fullmatch(name) is None or name not in self._written:
            return None
        path = self.folder / name
        return path if path.is_file() and not path.is_symlink() else None

    def _new_name(self, kind: SnapshotKind) -> str:
        while True:
            self._n += 1
            name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{self._n:04d}.{kind.value}"
            if not (self.folder / name).exists():  # another process may use the folder too
                return name
