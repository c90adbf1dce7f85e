"""Play a measurement into a live service and account for every frame."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import zmq

from engine.errors import LiveError
from engine.live.loop.counters import Counters
from engine.live.loop.live_image import Flag
from engine.live.replay.player import MeasuredFrames, play
from engine.live.wire.messages import IMAGE_TOPIC, STATUS_TOPIC, decode_image, decode_status
from engine.live.wire.producer import producer

QUIET_S = 30.0
"""Longest time without any message of the service, which sends one per second."""

POLL_MS = 100


@dataclass(frozen=True)
class ReplayReport:
    """Report of what became of the frames that were played.

    Times are from before a frame is sent until its image has been received, both in this process.

    Attributes
    ----------
    policy : str
        Policy of the service.
    rate : float
        Frames per second that were sent.
    seconds : float
        Time for which frames of the object were sent.
    frames_sent : int
        Number of frames of the object that were sent.
    frames_in, images_out, averaged, dropped, in_flight, late, not_converged : int
        Account of the service at the end (`engine.live.loop.counters.Counters`).
    dropped_by_reason, rejected : mapping of str to int
        Numbers by reason, from the same account.
    is_balanced : bool
        Whether frames_sent = frames_in = images_out + averaged + dropped + in_flight.
    cut : int
        Number of images that were ended by the deadline.
    images_received : int
        Number of images received by this process; a subscriber that does not keep up misses some.
    p50_ms, p99_ms, p999_ms, max_ms : float or None
        Quantiles of the times; None without images.
    mean_iterations : float or None
        Mean number of iterations of the images received.
    """

    policy: str
    rate: float
    seconds: float
    frames_sent: int
    frames_in: int
    images_out: int
    averaged: int
    dropped: int
    in_flight: int
    late: int
    not_converged: int
    dropped_by_reason: Mapping[str, int]
    rejected: Mapping[str, int]
    is_balanced: bool
    cut: int
    images_received: int
    p50_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    max_ms: float | None
    mean_iterations: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return asdict(self)


def replay(
    measured: MeasuredFrames,
    frames_endpoint: str,
    images_endpoint: str,
    *,
    rate: float,
    seconds: float,
    on_second: Callable[[Counters], None] = lambda _: None,
) -> ReplayReport:
    """Play a measurement into a service and wait until all of it is accounted for.

    Parameters
    ----------
    measured : MeasuredFrames
        What to play.
    frames_endpoint, images_endpoint : str
        Endpoints of a service that gets no other frames meanwhile.
    rate : float
        Frames per second.
    seconds : float
        Time to play for.
    on_second : callable
        Function that gets the account of the service, about once per second.

    Raises
    ------
    LiveError
        If the service cannot be reached, or falls silent.
    """
    with _Listener(images_endpoint, on_second) as listener, producer(frames_endpoint) as push:
        before = listener.wait_until(lambda _: True)  # the subscription has arrived
        sent = {}
        for frame in play(measured, rate, seconds, stream=f"replay-{time.time_ns()}"):
            if not frame.is_background:
                sent[frame.sequence] = time.perf_counter()
            push(frame)
        wall = time.perf_counter() - next(iter(sent.values()))
        end = before.frames_in + len(sent)
        after = listener.wait_until(lambda now: now.frames_in >= end and now.in_flight == 0)
        listener.raise_failure()
        return _report(listener, sent, before, after, wall)


def _report(
    listener: "_Listener", sent: Mapping[int, float], before: Counters, after: Counters, wall: float
) -> ReplayReport:
    times = np.array(
        [1e3 * (arrived - sent[number]) for number, arrived in listener.arrivals if number in sent]
    )
    p50, p99, p999, longest = np.percentile(times, [50, 99, 99.9, 100]).tolist() if len(times) else [None] * 4
    dropped = {
        reason: count - before.dropped.get(reason, 0)
        for reason, count in after.dropped.items()
        if count > before.dropped.get(reason, 0)
    }
    frames_in = after.frames_in - before.frames_in
    return ReplayReport(
        policy=listener.policy,
        rate=len(sent) / wall,
        seconds=wall,
        frames_sent=len(sent),
        frames_in=frames_in,
        images_out=after.images_out - before.images_out,
        averaged=after.averaged - before.averaged,
        dropped=sum(dropped.values()),
        in_flight=after.in_flight,
        late=after.late - before.late,
        not_converged=after.not_converged - before.not_converged,
        dropped_by_reason=dropped,
        rejected=after.rejected,
        is_balanced=after.is_balanced and frames_in == len(sent),
        cut=listener.n_cut,
        images_received=len(listener.arrivals),
        p50_ms=p50,
        p99_ms=p99,
        p999_ms=p999,
        max_ms=longest,
        mean_iterations=float(np.mean(listener.iterations)) if listener.iterations else None,
    )


class _Listener:
    """Listener to images and states in a thread of its own, so that arrivals are timed when they happen."""

    def __init__(self, endpoint: str, on_second: Callable[[Counters], None]) -> None:
        self._endpoint = endpoint
        self._on_second = on_second
        self._changed = threading.Condition()
        self._counters: Counters | None = None
        self._failure: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="replay-listener", daemon=True)
        self.arrivals: list[tuple[int, float]] = []
        self.iterations: list[int] = []
        self.n_cut = 0
        self.policy = ""

    def __enter__(self) -> "_Listener":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_until(self, condition: Callable[[Counters], bool]) -> Counters:
        """Return the account of the service once it meets a condition."""
        with self._changed:
            seen = self._counters
            while self._counters is None or not condition(self._counters):
                if not self._changed.wait(QUIET_S) or self._failure is not None:
                    break
                seen = self._counters
            if seen is None or not condition(seen):
                raise LiveError(
                    f"no word from the service at {self._endpoint} for {QUIET_S:g} s, or not all frames were "
                    f"taken ({seen}); expected its state every second; is it running?"
                )
            return seen

    def raise_failure(self) -> None:
        """Raise what ended the reading, if anything did."""
        if self._failure is not None:
            raise self._failure

    def _read(self) -> None:
        try:
            with zmq.Context() as context, context.socket(zmq.SUB) as source:
                source.linger = 0
                source.rcvhwm = 0
                for topic in (IMAGE_TOPIC, STATUS_TOPIC):
                    source.subscribe(topic)
                source.connect(self._endpoint)
                while not self._stop.is_set():
                    if source.poll(POLL_MS):
                        self._take(source.recv_multipart(), time.perf_counter())
        except Exception as error:
            self._failure = error
        finally:
            with self._changed:
                self._changed.notify_all()

    def _take(self, parts: list[bytes], arrived: float) -> None:
        if parts[0] == STATUS_TOPIC:
            status = decode_status(parts)
            self.policy = str(status["policy"])
            self._note(Counters(**status["counters"]))
            return
        header = decode_image(parts).header
        report = header["report"]
        self.arrivals.append((report["sequence"], arrived))
        self.iterations.append(report["iterations"])
        self.n_cut += Flag.DEADLINE in report["flags"]

    def _note(self, counters: Counters) -> None:
        with self._changed:
            self._counters = counters
            self._changed.notify_all()
        self._on_second(counters)
