"""State of a recording."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from engine.machine.checked_values import to_plain


class RecordingStatus(StrEnum):
    """Status of a recording: whether frames are written."""

    RECORDING = "recording"
    STOPPED = "stopped"  # no space, or the writing process has ended; viewing goes on
    CLOSED = "closed"


@dataclass(frozen=True)
class RecordingState:
    """Account at one moment: frames_in = frames_written + frames_lost + those that wait, images likewise.

    Attributes
    ----------
    status : RecordingStatus
        Whether frames are written.
    reason : str
        Reason why not, or what should be known about the files.
    frames_in, images_in : int
        Numbers of what was given to be recorded.
    frames_written, images_written : int
        Numbers of what is safe from a crash of any process.
    frames_lost, images_lost : int
        Numbers of what is in no file.
    lost : mapping of str to int
        Numbers of lost frames and images by reason.
    unfinished : tuple of str
        Names of the files that are not ordinary MDF files yet.
    files : tuple of str
        Names of all files of this recording.
    free_bytes : int or None
        Space left on the disk when last looked at.
    """

    status: RecordingStatus
    reason: str
    frames_in: int
    images_in: int
    frames_written: int
    images_written: int
    frames_lost: int
    images_lost: int
    lost: Mapping[str, int]
    unfinished: tuple[str, ...]
    files: tuple[str, ...]
    free_bytes: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        plain: dict[str, Any] = to_plain(self)
        return plain
