"""Policies for frames that come faster than images can be made."""

from bisect import insort
from collections.abc import Mapping, MutableSequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from engine.live.loop.counters import DropReason
from engine.measurement.background import layout_of
from engine.measurement.raw_frame import RawFrame


@dataclass(frozen=True, order=True)
class WaitingFrame:
    """Frame with the time when it was pushed; ordered by its place.

    Attributes
    ----------
    place : tuple of int
        Number of the stream, counted as they came, and of the frame within it.
    frame : RawFrame
        Frame that waits.
    pushed : float
        Time of the push on the clock `time.perf_counter`, in s.
    pushed_ns : int
        Time of the push in nanoseconds since 1970-01-01 UTC.
    has_clock_jump : bool
        Whether the producer's clock jumped before it.
    """

    place: tuple[int, int]
    frame: RawFrame = field(compare=False)
    pushed: float = field(compare=False)
    pushed_ns: int = field(compare=False)
    has_clock_jump: bool = field(compare=False, default=False)


Waiting = MutableSequence[WaitingFrame]
"""Frames of the object that wait, by increasing place."""

Dropped = list[tuple[DropReason, int]]


class LateFrames(Protocol):
    """Policy of which frames wait, and which of them make the next image."""

    def put(self, waiting: Waiting, frame: WaitingFrame, capacity: int) -> Dropped:
        """Let a frame wait, or not; return what was dropped for it."""
        ...

    def take(self, waiting: Waiting) -> list[WaitingFrame]:
        """Remove the frames of the next image and return them, the newest last; `waiting` is not empty."""
        ...


class Latest:
    """Policy "latest": only the newest frame counts."""

    def put(self, waiting: Waiting, frame: WaitingFrame, capacity: int) -> Dropped:  # noqa: ARG002
        """Replace the frame that waits; one that is older than it is dropped itself."""
        insort(waiting, frame)
        n_older = len(waiting) - 1
        del waiting[:-1]
        return [(DropReason.OVERTAKEN, n_older)] if n_older else []

    def take(self, waiting: Waiting) -> list[WaitingFrame]:
        """Take the one that waits."""
        return [waiting.pop()]


class BlockAverage:
    """Policy "block-average": all frames that wait make one image."""

    def put(self, waiting: Waiting, frame: WaitingFrame, capacity: int) -> Dropped:
        """Let the frame wait; beyond the capacity the oldest one goes."""
        insort(waiting, frame)
        if len(waiting) <= capacity:
            return []
        del waiting[0]
        return [(DropReason.QUEUE_FULL, 1)]

    def take(self, waiting: Waiting) -> list[WaitingFrame]:
        """Take all frames of the stream and the layout of the oldest one."""
        block = [waiting.pop(0)]
        while waiting and _can_be_averaged(waiting[0], block[0]):
            block.append(waiting.pop(0))
        return block


class EveryFrame:
    """Policy "every-frame": one image per frame, in their order."""

    def put(self, waiting: Waiting, frame: WaitingFrame, capacity: int) -> Dropped:
        """Let the frame wait if there is a place."""
        if len(waiting) >= capacity:
            return [(DropReason.QUEUE_FULL, 1)]
        insort(waiting, frame)
        return []

    def take(self, waiting: Waiting) -> list[WaitingFrame]:
        """Take the oldest frame."""
        return [waiting.pop(0)]


def _can_be_averaged(one: WaitingFrame, other: WaitingFrame) -> bool:
    return one.place[0] == other.place[0] and layout_of(one.frame) == layout_of(other.frame)


POLICIES: Mapping[str, LateFrames] = MappingProxyType(
    {"latest": Latest(), "block-average": BlockAverage(), "every-frame": EveryFrame()}
)
"""The policies by name."""
