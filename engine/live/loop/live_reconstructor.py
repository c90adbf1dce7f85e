"""Images of frames as they come: the loop inside an acquisition."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType

from engine.errors import DeqMpiError, InputError, LiveError, PairingError
from engine.live.loop.counters import Counters, DropReason, Ledger
from engine.live.loop.events import Event, OnEvent, ignore
from engine.live.loop.frame_queue import Batch, FrameQueue
from engine.live.loop.frame_to_image import AssessedImage, FrameToImage
from engine.live.loop.late_frames import POLICIES, WaitingFrame
from engine.live.loop.live_image import BackgroundState, Flag, LiveImage, LiveReport
from engine.live.loop.loop_config import LoopConfig
from engine.live.loop.self_check import require_working
from engine.live.loop.swap import SwapState, SwapStep, SwapTrial
from engine.measurement.background import RunningBackground
from engine.measurement.raw_frame import RawFrame
from engine.reconstruction.reconstructor import Reconstructor

IDLE_S = 0.25
"""Time in s after which the loop looks around while no frame comes."""

KEPT_IMAGES = 64
"""Most images that `LiveReconstructor.images` keeps for its reader; beyond it the oldest goes."""

OnImage = Callable[[LiveImage], None]


class LiveReconstructor:
    """Live reconstruction: raw frames are pushed from any thread, images come in another one.

    One thread makes the images, one after the other. No frame is lost without a count, and no error of a
    frame ends the loop. Images come to `on_image`, in the loop's thread, or are read with `images`.

    Parameters
    ----------
    reconstructor : Reconstructor
        Method and operators; used by the loop's thread only from now on. `MethodSettings(warm_start=True)`
        lets each frame start from the one before.
    config : LoopConfig, optional
        Policy, deadline and limits.
    on_image : callable, optional
        Function that gets every `LiveImage` and returns fast. What it raises is reported as an event.
    on_event : callable, optional
        Function that gets every `Event`: failures, swaps, changes of the stream.

    Raises
    ------
    LiveError
        If the reconstructor does not work (`engine.live.loop.self_check`).

    Examples
    --------
    >>> with LiveReconstructor(Reconstructor.load("operators.h5")) as live:  # doctest: +SKIP
    ...     live.push(RawFrame(0, spectra))
    ...     image = next(live.images())
    """

    def __init__(
        self,
        reconstructor: Reconstructor,
        config: LoopConfig | None = None,
        on_image: OnImage | None = None,
        on_event: OnEvent = ignore,
    ) -> None:
        self.config = config or LoopConfig()
        self._on_image, self._on_event = on_image, on_event
        require_working(reconstructor)
        self._maker = FrameToImage(reconstructor, self.config)
        self._ledger = Ledger()
        self._queue = FrameQueue(
            POLICIES[self.config.policy],
            self.config.queue_frames,
            self.config.background_frames,
            self._ledger,
            self.config.clock_jump_s,
        )
        self._background = RunningBackground(self.config.background_frames)
        self._background_at: float | None = None
        self._background_state = BackgroundState()
        self._swap_lock = threading.Lock()
        self._next: FrameToImage | None = None
        self._before: FrameToImage | None = None
        self._trial: SwapTrial | None = None
        self._swap_state: SwapState | None = None
        self._last_frame: RawFrame | None = None
        self._last_image: LiveImage | None = None
        self._last_image_at: float | None = None
        self._in_hand: float | None = None  # when the oldest frame of the image being made was pushed
        self._kept: deque[LiveImage] = deque(maxlen=KEPT_IMAGES)
        self._image_there = threading.Condition()
        self._has_ended = False
        self._thread = threading.Thread(target=self._run, name="deq-mpi-live", daemon=True)

    def start(self) -> "LiveReconstructor":
        """Begin to make images; LiveError if that was done before."""
        try:
            self._thread.start()
        except RuntimeError as error:
            raise LiveError("the loop was started before; expected one start; make a new one") from error
        return self

    def __enter__(self) -> "LiveReconstructor":
        """Start the loop."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the loop; frames that wait are reconstructed unless an error was raised."""
        self.close(drain=kind is None)

    def push(self, frame: RawFrame, wait_s: float = 0.0) -> bool:
        """Hand a frame over; from any thread.

        Parameters
        ----------
        frame : RawFrame
            Frame, whose array must not be changed any more.
        wait_s : float
            Time in s to wait for a place, with the policy "every-frame".

        Returns
        -------
        bool
            Whether it waits for its image now. If not, `counters` says why.
        """
        return self._queue.put(frame, wait_s)

    def images(self, timeout_s: float | None = None) -> Iterator[LiveImage]:
        """Yield images as they are made, until the loop has ended or none came for some time.

        Without `on_image` only. A reader that is slower than the images misses the oldest ones beyond
        `KEPT_IMAGES`.
        """
        while True:
            with self._image_there:
                self._image_there.wait_for(lambda: self._kept or self._has_ended, timeout_s)
                if not self._kept:
                    return
                image = self._kept.popleft()
            yield image

    def close(self, *, drain: bool = True, timeout_s: float = 30.0) -> Counters:
        """Take no more frames, finish (or drop) those that wait, end the loop and return the account.

        Raises
        ------
        LiveError
            If the loop has not ended within the time.
        """
        self._queue.close(drain=drain)
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                raise LiveError(
                    f"the loop has not ended within {timeout_s:g} s; expected a frame to take less; end the "
                    "process"
                )
        return self._ledger.counters()

    def swap(self, reconstructor: Reconstructor) -> SwapState:
        """Use another method or other operators from the next frame on, if they pass their check.

        The check is made in the calling thread, while frames go on with the old ones. The new ones are on
        trial for `TRIAL_IMAGES` images: an error, or images that all fail to explain their data where those
        before did, bring the old ones back.

        Parameters
        ----------
        reconstructor : Reconstructor
            Reconstructor that only the loop's thread uses from now on.

        Returns
        -------
        SwapState
            WAITING, or REFUSED with the reason; `swap_state` follows it from there.
        """
        with self._swap_lock:
            try:
                require_working(reconstructor)
                maker = FrameToImage(reconstructor, self.config)
                if self._last_frame is not None:
                    maker.require_frame(self._last_frame)
            except DeqMpiError as error:
                return self._note_swap(SwapState(SwapStep.REFUSED, str(error)))
            except Exception as error:  # what a runtime of networks raises
                return self._note_swap(SwapState(SwapStep.REFUSED, f"{type(error).__name__}: {error}"))
            self._next = maker
            return self._note_swap(SwapState(SwapStep.WAITING, "the check was passed"))

    def note_refused_swap(self, message: str) -> SwapState:
        """Take note of operators or a model that could not even be loaded."""
        return self._note_swap(SwapState(SwapStep.REFUSED, message))

    def reject(self, reason: str) -> None:
        """Count a message that was no frame."""
        self._ledger.reject(reason)

    def counters(self) -> Counters:
        """Return the account of where every frame went."""
        return self._ledger.counters()

    def background(self) -> BackgroundState:
        """Return the state of the background that is subtracted."""
        return self._background_state

    @property
    def reconstructor(self) -> Reconstructor:
        """Reconstructor in use."""
        return self._maker.reconstructor

    @property
    def swap_state(self) -> SwapState | None:
        """The last swap; None if there was none."""
        return self._swap_state

    @property
    def is_alive(self) -> bool:
        """Whether the loop runs."""
        return self._thread.is_alive()

    @property
    def last_image(self) -> LiveImage | None:
        """The newest image."""
        return self._last_image

    @property
    def last_image_age_s(self) -> float | None:
        """Time in s since the newest image."""
        return None if self._last_image_at is None else time.perf_counter() - self._last_image_at

    @property
    def oldest_wait_s(self) -> float | None:
        """Time in s that the oldest frame has been in flight, reconstruction included; None if none is."""
        in_hand, waiting = self._in_hand, self._queue.oldest_wait_s()
        return waiting if in_hand is None else time.perf_counter() - in_hand

    def _run(self) -> None:
        try:
            while (batch := self._queue.take(IDLE_S)) is not None:
                self._exchange()
                for frame in batch.background:
                    self._take_background(frame)
                if batch.frames:
                    self._make_image(batch)
        except BaseException as error:  # a defect of the loop itself: say so, and count what waits
            self._say("loop-ended", logging.CRITICAL, error=f"{type(error).__name__}: {error}")
            self._queue.close(drain=False)
            raise
        finally:
            with self._image_there:
                self._has_ended = True
                self._image_there.notify_all()

    def _exchange(self) -> None:
        with self._swap_lock:
            maker, self._next = self._next, None
        if maker is None:
            return
        flagged = self._last_image is not None and Flag.RESIDUAL in self._last_image.report.flags
        self._before, self._maker, self._trial = self._maker, maker, SwapTrial(flagged)
        self._note_swap(SwapState(SwapStep.ON_TRIAL, "in use from this frame on"))
        self._last_image = None
        self._describe_background(self._last_frame)

    def _take_background(self, frame: RawFrame) -> None:
        try:
            self._maker.require_frame(frame)
            self._background.update(frame, self._maker.spectra(frame))
        except InputError as error:
            self._ledger.reject("background-mismatch")
            self._say("background-refused", logging.WARNING, sequence=frame.sequence, error=str(error))
            return
        self._background_at = time.perf_counter()
        self._describe_background(frame)

    def _describe_background(self, frame: RawFrame | None) -> None:
        age = None if self._background_at is None else time.perf_counter() - self._background_at
        self._background_state = self._maker.background_state(self._background, frame, age)

    def _make_image(self, batch: Batch) -> None:
        usable = [waiting for waiting in batch.frames if self._is_usable(waiting)]
        if not usable:
            return
        begun = time.perf_counter()
        self._in_hand = usable[0].pushed
        try:
            assessed = self._assessed_image(usable)
        finally:
            self._in_hand = None
        if assessed is not None:
            self._hand_on(self._live_image(usable, assessed, batch.has_gap, begun))

    def _is_usable(self, waiting: WaitingFrame) -> bool:
        try:
            self._maker.require_frame(waiting.frame)
        except PairingError as error:
            reason, message = DropReason.MISMATCH, str(error)
        except InputError as error:
            reason, message = DropReason.NOT_FINITE, str(error)
        else:
            self._last_frame = waiting.frame
            return True
        self._ledger.drop(reason)
        self._say("frame-dropped", logging.WARNING, sequence=waiting.place[1], reason=reason, error=message)
        return False

    def _assessed_image(self, usable: list[WaitingFrame]) -> AssessedImage | None:
        """Return the image; None if even the reconstructor before a swap fails."""
        deadline = None
        if self.config.deadline_ms is not None:
            deadline = usable[-1].pushed + (self.config.deadline_ms - self.config.reserve_ms) / 1e3
        frames = [waiting.frame for waiting in usable]
        while True:
            try:
                return self._maker.make(frames, self._background, deadline)
            except Exception as error:
                message = f"{type(error).__name__}: {error}"
                if self._before is not None:
                    self._roll_back(message)
                    continue
                self._ledger.drop(DropReason.FAILED, len(frames))
                self._say("frame-failed", logging.ERROR, sequence=frames[-1].sequence, error=message)
                return None

    def _live_image(
        self, usable: list[WaitingFrame], assessed: AssessedImage, has_gap: bool, begun: float
    ) -> LiveImage:
        newest, finished = usable[-1], time.perf_counter()
        latency_ms = 1e3 * (finished - newest.pushed)
        self._describe_background(newest.frame)
        flags = list(assessed.flags)
        if self.config.deadline_ms is not None and latency_ms > self.config.deadline_ms:
            flags.insert(0, Flag.LATE)
        if has_gap:
            flags.append(Flag.GAP)
        if any(waiting.has_clock_jump for waiting in usable):
            flags.append(Flag.CLOCK_JUMP)
        age = self._background_state.age_s
        if Flag.NO_BACKGROUND not in flags and age is not None and age > self.config.background_max_age_s:
            flags.append(Flag.BACKGROUND_OLD)
        if self._trial is not None and self._last_image is None:
            flags.append(Flag.SWAPPED)
        report = LiveReport(
            sequence=newest.frame.sequence,
            first_sequence=usable[0].frame.sequence,
            n_frames=len(usable),
            stream=newest.frame.stream,
            acquired_ns=newest.frame.acquired_ns,
            received_ns=newest.pushed_ns,
            finished_ns=time.time_ns(),
            waited_ms=1e3 * (begun - newest.pushed),
            latency_ms=latency_ms,
            flags=tuple(flags),
            saturated_channels=assessed.saturated_channels,
            residual_ratio=assessed.residual_ratio,
            frame=assessed.reconstruction.report,
        )
        found = assessed.reconstruction
        return LiveImage(
            found.image, found.interval, self._maker.operators.grid, self._background_state, report
        )

    def _hand_on(self, image: LiveImage) -> None:
        self._ledger.image(
            image.report.n_frames,
            is_late=Flag.LATE in image.report.flags,
            is_converged=image.report.frame.converged,
        )
        self._last_image, self._last_image_at = image, time.perf_counter()
        if self._trial is not None:
            verdict = self._trial.image(Flag.RESIDUAL in image.report.flags)
            if verdict is not None and verdict.step is SwapStep.ROLLED_BACK:
                self._roll_back(verdict.reason)
            elif verdict is not None:
                self._before = self._trial = None
                self._note_swap(verdict)
        if self._on_image is None:
            with self._image_there:
                self._kept.append(image)
                self._image_there.notify_all()
            return
        try:
            self._on_image(image)
        except Exception as error:
            self._say("image-callback-failed", logging.ERROR, error=f"{type(error).__name__}: {error}")

    def _roll_back(self, why: str) -> None:
        if self._before is None:
            return
        self._maker, self._before, self._trial = self._before, None, None
        self._note_swap(SwapState(SwapStep.ROLLED_BACK, why))

    def _note_swap(self, state: SwapState) -> SwapState:
        self._swap_state = state
        is_bad = state.step in (SwapStep.REFUSED, SwapStep.ROLLED_BACK)
        self._say("swap", logging.ERROR if is_bad else logging.INFO, **state.to_dict())
        return state

    def _say(self, name: str, level: int, **fields: object) -> None:
        self._on_event(Event(name, level, fields))
