"""Feed of the page: the newest images of the service and its figures, taken in as fast as they come.

A subscriber cannot slow the service down: the service drops what a subscriber does not fetch, and this one
fetches everything at once and keeps only the newest.
"""

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from engine.errors import InputError, MdfError, MessageError
from engine.live.view.latency_window import LatencyWindow
from engine.live.wire.messages import IMAGE_TOPIC, STATUS_TOPIC, ImageMessage, decode_image, decode_status
from engine.mpi.grid import Grid

KEPT_IMAGES = 32
"""Number of images that can still be asked for after newer ones came."""

KEPT_BYTES = 256 * 2**20
"""Most bytes of the kept images; of large volumes fewer are kept, but always the newest."""

RECEIVE_QUEUE = 256
"""Number of messages that ZeroMQ holds for us: five seconds of images while the process stands still."""

MAX_MESSAGE = 2**30
"""Most bytes of one part of a message; a connection that sends more is closed."""

RECONNECT_MS, RECONNECT_MAX_MS = 100, 1000
"""First and longest pause before the next attempt to reach the service."""

HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 1000, 3000
"""Period and limit in ms of the sign of life by which the loss of a machine is noticed: it closes nothing."""

HISTOGRAM_PERIOD = 0.25
"""Seconds between two histograms; people see no more."""


@dataclass(frozen=True, eq=False)
class ReceivedImage:
    """One image as it came.

    Attributes
    ----------
    number : int
        Number by arrival here, from 1; sequence numbers may come again after a restart of the producer.
    message : ImageMessage
        Image with its header.
    grid : Grid
        Grid of the image.
    arrived : float
        Time of arrival on our monotonic clock, in s.
    page_header : bytes
        Header for the page in JSON: report, grid, names of the arrays.
    """

    number: int
    message: ImageMessage
    grid: Grid
    arrived: float
    page_header: bytes

    @property
    def sequence(self) -> int:
        """Number of the newest frame in it."""
        return int(self.message.header["report"]["sequence"])

    @property
    def flags(self) -> tuple[str, ...]:
        """Flags that a reader should know."""
        return tuple(self.message.header["report"]["flags"])

    @property
    def arrays(self) -> bytes:
        """The little-endian float32 values of the image and, with intervals, of low and high."""
        message = self.message
        volumes = [message.image, message.low, message.high]
        return b"".join(volume.tobytes() for volume in volumes if volume is not None)

    @property
    def n_bytes(self) -> int:
        """Number of bytes of the arrays."""
        return self.message.image.nbytes * (1 if self.message.low is None else 3)


class ViewFeed:
    """A subscriber of the service; all of it runs in one event loop.

    Parameters
    ----------
    source : str
        Address at which the service publishes, such as "tcp://127.0.0.1:5556".

    Attributes
    ----------
    images : deque of ReceivedImage
        Newest images, at most `KEPT_IMAGES` and `KEPT_BYTES`.
    n_images : int
        Number of images that came.
    listeners : set of asyncio.Event
        Events that are set whenever a message came.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.images: deque[ReceivedImage] = deque(maxlen=KEPT_IMAGES)
        self.n_images = 0
        self.listeners: set[asyncio.Event] = set()
        self._kept_bytes = 0
        self._is_connected = False
        self._status: Mapping[str, Any] | None = None
        self._status_arrived = 0.0
        self._counters: Mapping[str, Any] | None = None
        self._background: Mapping[str, Any] | None = None
        self._malformed: Counter[str] = Counter()
        self._latencies = LatencyWindow()
        self._histogram: dict[str, Any] = {}
        self._histogram_made = -1.0

    @property
    def newest(self) -> ReceivedImage | None:
        """The newest image, or None before the first."""
        return self.images[-1] if self.images else None

    def figures(self) -> dict[str, Any]:
        """Return everything but images, in values that JSON can hold."""
        now = time.monotonic()
        deadline = (self._status or {}).get("deadline_ms")
        if now - self._histogram_made >= HISTOGRAM_PERIOD:
            self._histogram, self._histogram_made = self._latencies.histogram(deadline), now
        newest = self.newest
        return {
            "source": self.source,
            "connected": self._is_connected,
            "images": self.n_images,
            "image_age_s": None if newest is None else now - newest.arrived,
            "status": self._status,
            "status_age_s": None if self._status is None else now - self._status_arrived,
            "counters": self._counters,
            "background": self._background,
            "latency": self._histogram,
            "deadline_ms": deadline,
            "malformed": dict(self._malformed),
        }

    async def run(self) -> None:
        """Receive until cancelled; the connection comes back by itself when the service does.

        Raises
        ------
        InputError
            If the address is none.
        """
        with ExitStack() as stack:
            context = stack.enter_context(zmq.asyncio.Context())
            socket = stack.enter_context(context.socket(zmq.SUB, socket_class=zmq.asyncio.Socket))
            for option, value in (
                (zmq.LINGER, 0),
                (zmq.RCVHWM, RECEIVE_QUEUE),
                (zmq.MAXMSGSIZE, MAX_MESSAGE),
                (zmq.RECONNECT_IVL, RECONNECT_MS),
                (zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS),
                (zmq.HEARTBEAT_IVL, HEARTBEAT_MS),
                (zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS),
                (zmq.IPV6, 1),
            ):
                socket.set(option, value)
            for topic in (IMAGE_TOPIC, STATUS_TOPIC):
                socket.subscribe(topic)
            monitor = stack.enter_context(
                socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
            )
            stack.callback(socket.disable_monitor)
            try:
                socket.connect(self.source)
            except zmq.ZMQError as error:
                raise InputError(
                    f"cannot subscribe to {self.source!r} ({error}); expected an address like tcp://127.0.0.1:5556"
                ) from error
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch(monitor))
                tasks.create_task(self._receive(socket))

    async def _watch(self, monitor: zmq.asyncio.Socket) -> None:
        while True:
            event = await recv_monitor_message(monitor)
            self._is_connected = event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED
            self._wake()

    async def _receive(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            self.take(await socket.recv_multipart())
            await asyncio.sleep(0)  # a full queue must not keep the pages waiting

    def take(self, parts: list[bytes]) -> None:
        """Take in one message; what breaks the rules of the format is counted and shown, never fatal."""
        try:
            if parts[0] == STATUS_TOPIC:
                self._take_status(parts)
            else:
                self._take_image(parts)
        except MessageError as error:
            self._malformed[error.reason] += 1
        self._wake()

    def _take_status(self, parts: list[bytes]) -> None:
        status = decode_status(parts)
        deadline = status.get("deadline_ms")
        if deadline is not None and not (_is_number(deadline) and deadline > 0):
            raise MessageError(
                "value", f"deadline_ms is {deadline!r:.40}; expected a positive number or null"
            )
        self._status, self._status_arrived = status, time.monotonic()
        self._take_figures(status)

    def _take_image(self, parts: list[bytes]) -> None:
        message = decode_image(parts)
        header = message.header
        report = _checked_report(header)
        grid = _grid(header["grid"])
        page_header = json.dumps(
            {
                "number": self.n_images + 1,
                "shape": header["shape"],
                "arrays": header["arrays"],
                "field_of_view": grid.field_of_view,
                "center": grid.center,
                "interval_coverage": header["interval_coverage"],
                "report": report,
            },
            allow_nan=False,  # which the format forbids already
            separators=(",", ":"),
        ).encode()
        self._take_figures(header)
        self.n_images += 1
        self._latencies.add(float(report["latency_ms"]))
        self._keep(ReceivedImage(self.n_images, message, grid, time.monotonic(), page_header))

    def _take_figures(self, values: Mapping[str, Any]) -> None:
        counters, background = values.get("counters"), values.get("background")
        if isinstance(background, dict):
            self._background = background
        if isinstance(counters, dict):
            if _frames_in(counters) < _frames_in(self._counters or {}):
                self._latencies.clear()  # the service has started again
            self._counters = counters

    def _keep(self, image: ReceivedImage) -> None:
        if len(self.images) == KEPT_IMAGES:
            self._kept_bytes -= self.images.popleft().n_bytes
        self.images.append(image)
        self._kept_bytes += image.n_bytes
        while self._kept_bytes > KEPT_BYTES and len(self.images) > 1:
            self._kept_bytes -= self.images.popleft().n_bytes

    def _wake(self) -> None:
        for listener in self.listeners:
            listener.set()


def _checked_report(header: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the report of an image if it holds what we rely on."""
    report: Mapping[str, Any] = header["report"]
    flags = report.get("flags")
    if (
        type(report.get("sequence")) is not int
        or not _is_number(report.get("latency_ms"))
        or not isinstance(flags, list)
        or not all(isinstance(flag, str) for flag in flags)
    ):
        raise MessageError("value", "the report lacks a sequence, latency_ms or flags; expected all of them")
    return report


def _grid(stated: Mapping[str, Any]) -> Grid:
    try:
        return Grid(tuple(stated["size"]), tuple(stated["field_of_view"]), tuple(stated["center"]))
    except (TypeError, KeyError, MdfError) as error:
        raise MessageError(
            "value", f"the grid cannot be used ({error}); expected size and extents"
        ) from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _frames_in(counters: Mapping[str, Any]) -> int:
    found = counters.get("frames_in")
    return found if isinstance(found, int) else 0
