"""Counts of where every frame went, which add up at any moment."""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class DropReason(StrEnum):
    """Reason why a frame did not get into an image."""

    OVERTAKEN = "overtaken"  # a newer frame was there (policy latest)
    QUEUE_FULL = "queue-full"  # it found no place
    DUPLICATE = "duplicate"
    OUT_OF_ORDER = "out-of-order"  # its successor had been begun
    NOT_FINITE = "not-finite"
    MISMATCH = "mismatch"  # its shape or type is not that of the operators
    FAILED = "failed"  # the solver raised an error
    STOPPED = "stopped"  # it waited when the service ended


@dataclass(frozen=True)
class Counters:
    """Account of all frames at one moment.

    frames_in = images_out + averaged + sum of dropped + in_flight holds in every one of them. Background
    frames and messages that were no frames are counted apart.

    Attributes
    ----------
    frames_in : int
        Number of frames of the object.
    images_out : int
        Number of images handed on.
    averaged : int
        Number of frames that went into an image beside its newest one (policy block-average).
    dropped : mapping of str to int
        Frames that got into no image, by `DropReason`.
    in_flight : int
        Frames that wait or are being reconstructed.
    background_in : int
        Background frames.
    late : int
        Images that came out after their deadline.
    not_converged : int
        Images whose solve did not meet its tolerance.
    rejected : mapping of str to int
        Messages that were no frames, by reason.
    """

    frames_in: int = 0
    images_out: int = 0
    averaged: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    in_flight: int = 0
    background_in: int = 0
    late: int = 0
    not_converged: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_balanced(self) -> bool:
        """Whether every frame is accounted for."""
        return self.frames_in == (
            self.images_out + self.averaged + sum(self.dropped.values()) + self.in_flight
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return asdict(self)


class Ledger:
    """The counts of a running reconstruction, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frames_in = self._images_out = self._averaged = 0
        self._background_in = self._late = self._not_converged = 0
        self._dropped: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()

    def frame(self) -> None:
        """Count a frame that arrived; it is in flight until an image or a drop accounts for it."""
        with self._lock:
            self._frames_in += 1

    def background(self) -> None:
        """Count a background frame."""
        with self._lock:
            self._background_in += 1

    def drop(self, reason: DropReason, n_frames: int = 1) -> None:
        """Count frames that will be in no image."""
        with self._lock:
            self._dropped[reason.value] += n_frames

    def image(self, n_frames: int, *, is_late: bool, is_converged: bool) -> None:
        """Count an image made of so many frames."""
        with self._lock:
            self._images_out += 1
            self._averaged += n_frames - 1
            self._late += is_late
            self._not_converged += not is_converged

    def reject(self, reason: str) -> None:
        """Count a message that was no frame."""
        with self._lock:
            self._rejected[reason] += 1

    def counters(self) -> Counters:
        """Return the account of this moment."""
        with self._lock:
            done = self._images_out + self._averaged + self._dropped.total()
            return Counters(
                frames_in=self._frames_in,
                images_out=self._images_out,
                averaged=self._averaged,
                dropped=dict(self._dropped),
                in_flight=self._frames_in - done,
                background_in=self._background_in,
                late=self._late,
                not_converged=self._not_converged,
                rejected=dict(self._rejected),
            )
