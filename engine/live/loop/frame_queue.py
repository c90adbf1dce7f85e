"""Queue in which frames wait for their reconstruction, in order, each of them once."""

import threading
import time
from collections import deque
from dataclasses import dataclass

from engine.live.loop.counters import DropReason, Ledger
from engine.live.loop.late_frames import LateFrames, Waiting, WaitingFrame
from engine.measurement.raw_frame import RawFrame

REMEMBERED = 4096
"""Count of numbers of a stream that are known to have come: a later duplicate counts as out of order."""

STREAMS_REMEMBERED = 16
"""Number of ended streams that are known: a frame that still comes from one of them is out of order."""


@dataclass(frozen=True)
class Batch:
    """Batch of frames that is to be worked on next.

    Attributes
    ----------
    background : tuple of RawFrame
        Background frames that came since the last batch, the oldest first.
    frames : tuple of WaitingFrame
        Frames of the next image, the newest last; empty if none waits.
    has_gap : bool
        Whether numbers between the image before and this one have never come.
    """

    background: tuple[RawFrame, ...]
    frames: tuple[WaitingFrame, ...]
    has_gap: bool


class FrameQueue:
    """Queue: frames from any thread in, batches for one thread out.

    Every frame of the object that is put in is counted, and either comes out once or is counted as dropped.
    Batches come out in the order of the frames' numbers: one that arrives when its successor is out is
    dropped.

    Parameters
    ----------
    policy : LateFrames
        Policy that says which frames wait.
    capacity : int
        Number of frames that may wait.
    background_capacity : int
        Background frames that may wait; beyond it the oldest is passed over.
    ledger : Ledger
        Ledger that gets the counts.
    clock_jump_s : float
        Difference in s from which on the producer's clock counts as having jumped.
    """

    def __init__(
        self,
        policy: LateFrames,
        capacity: int,
        background_capacity: int,
        ledger: Ledger,
        clock_jump_s: float,
    ) -> None:
        self._policy = policy
        self._capacity = capacity
        self._ledger = ledger
        self._clock_jump_s = clock_jump_s
        self._changed = threading.Condition()
        self._waiting: Waiting = []
        self._background: deque[RawFrame] = deque(maxlen=background_capacity)
        self._stream: str | None = None
        self._streams_before: deque[str] = deque(maxlen=STREAMS_REMEMBERED)
        self._n_streams = 0
        self._seen: set[int] = set()
        self._seen_order: deque[int] = deque()
        self._begun = (0, -1)  # place of the newest frame that came out
        self._last_stamp: tuple[int, float] | None = None
        self._is_open = True

    def put(self, frame: RawFrame, wait_s: float = 0.0) -> bool:
        """Let a frame wait.

        Parameters
        ----------
        frame : RawFrame
            Of the object, or a background frame.
        wait_s : float
            Time in s to wait for a place, where the policy refuses frames.

        Returns
        -------
        bool
            Whether it waits now; if not, it was counted as dropped.
        """
        pushed, pushed_ns = time.perf_counter(), time.time_ns()
        with self._changed:
            if wait_s > 0 and not frame.is_background:
                self._changed.wait_for(
                    lambda: len(self._waiting) < self._capacity or not self._is_open, wait_s
                )
            refusal = self._refusal(frame)
            if frame.is_background:
                if refusal is not None:
                    self._ledger.reject(f"background-{refusal}")
                    return False
                self._ledger.background()
                self._background.append(frame)
                self._changed.notify_all()
                return True
            self._ledger.frame()
            if refusal is not None:
                self._ledger.drop(refusal)
                return False
            jump = self._has_clock_jump(frame, pushed)
            entry = WaitingFrame((self._n_streams, frame.sequence), frame, pushed, pushed_ns, jump)
            for reason, count in self._policy.put(self._waiting, entry, self._capacity):
                self._ledger.drop(reason, count)
            self._changed.notify_all()
            return any(waiting is entry for waiting in self._waiting)

    def take(self, timeout_s: float) -> Batch | None:
        """Return the next batch, an empty one after the time given, and None once closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._background or not self._is_open, timeout_s)
            background = tuple(self._background)
            self._background.clear()
            if not self._waiting:
                return Batch(background, (), has_gap=False) if self._is_open or background else None
            frames = tuple(self._policy.take(self._waiting))
            has_gap = self._has_gap(frames)
            self._begun = frames[-1].place
            self._changed.notify_all()
            return Batch(background, frames, has_gap)

    def close(self, *, drain: bool) -> None:
        """Take nothing more; what waits still comes out (drain) or is dropped."""
        with self._changed:
            self._is_open = False
            if not drain and self._waiting:
                self._ledger.drop(DropReason.STOPPED, len(self._waiting))
                self._waiting.clear()
            self._changed.notify_all()

    def oldest_wait_s(self) -> float | None:
        """Return how long the oldest frame has been waiting; None if none waits."""
        with self._changed:
            return time.perf_counter() - self._waiting[0].pushed if self._waiting else None

    def _refusal(self, frame: RawFrame) -> DropReason | None:
        if not self._is_open:
            return DropReason.STOPPED
        if frame.stream != self._stream:
            if self._stream is not None and frame.stream in self._streams_before:
                return DropReason.OUT_OF_ORDER
            self._begin_stream(frame.stream)
        if frame.sequence in self._seen:
            return DropReason.DUPLICATE
        self._remember(frame.sequence)
        if not frame.is_background and (self._n_streams, frame.sequence) <= self._begun:
            return DropReason.OUT_OF_ORDER
        return None

    def _begin_stream(self, stream: str) -> None:
        if self._stream is not None:
            self._streams_before.append(self._stream)
        self._stream = stream
        self._n_streams += 1
        self._seen.clear()
        self._seen_order.clear()
        self._last_stamp = None

    def _remember(self, sequence: int) -> None:
        self._seen.add(sequence)
        self._seen_order.append(sequence)
        if len(self._seen_order) > REMEMBERED:
            self._seen.discard(self._seen_order.popleft())

    def _has_clock_jump(self, frame: RawFrame, pushed: float) -> bool:
        if frame.acquired_ns is None:
            return False
        before, self._last_stamp = self._last_stamp, (frame.acquired_ns, pushed)
        if before is None:
            return False
        theirs, ours = (frame.acquired_ns - before[0]) / 1e9, pushed - before[1]
        return abs(theirs - ours) > self._clock_jump_s

    def _has_gap(self, frames: tuple[WaitingFrame, ...]) -> bool:
        stream, newest = frames[-1].place
        if stream != self._begun[0] or stream != self._n_streams:
            return False  # the first of its stream, or one whose numbers are no longer known
        between = newest - self._begun[1]
        if between > REMEMBERED:
            return True
        return not all(number in self._seen for number in range(self._begun[1] + 1, newest))
