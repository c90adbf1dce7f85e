"""Socket at which frames come in: a ZeroMQ PULL socket that anything may send anything to."""

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import zmq

from engine.errors import MessageError
from engine.live.wire.listening_socket import ListeningSocket
from engine.live.wire.messages import decode_frame
from engine.live.wire.strict_json import MAX_HEADER
from engine.measurement.raw_frame import RawFrame

QUEUE = 8
"""Number of messages that wait for each producer (RCVHWM); one that is faster waits on its own side."""

PARTS_KEPT = 3
"""Number of parts of a message that are kept: one more than a frame has. The rest is read and forgotten."""

POLL_MS = 100
"""Longest time in ms for which `close` waits for the thread to look up."""

_log = logging.getLogger(__name__)


class FrameSocket:
    """Socket that receives frames in a thread of its own, from construction to `close`.

    Whatever arrives is either handed on as a frame, counted as refused, or ended by ZeroMQ before it is a
    message: bytes that are no ZMTP, a part larger than allowed (its connection is closed), a message whose
    producer died in the middle of it.

    Parameters
    ----------
    endpoint : str
        Endpoint to listen at, such as ``tcp://127.0.0.1:5555``; port ``*`` for a free one.
    max_frame_bytes : int
        Largest part of a message; at least a header fits.
    on_frame : callable
        Gets each frame and the parts of its message, which the values of the frame are a view of, in the
        thread of this socket. Frames of one producer come in their order. An exception in it is logged, and
        the next frame is received.
    on_rejected : callable
        Function that gets the error of each message that is no frame.
    allow_remote : bool
        Whether the endpoint may be reached from other machines.
    context : zmq.Context, optional
        Context of the other side, for ``inproc`` endpoints; it stays open.

    Raises
    ------
    ConfigError
        If the endpoint is reached from other machines and that is not allowed.
    LiveError
        If the endpoint cannot be had, such as when it is taken.
    """

    def __init__(
        self,
        endpoint: str,
        max_frame_bytes: int,
        on_frame: Callable[[RawFrame, list[bytes]], object],
        on_rejected: Callable[[MessageError], object],
        *,
        allow_remote: bool = False,
        context: zmq.Context[Any] | None = None,
    ) -> None:
        self._on_frame = on_frame
        self._on_rejected = on_rejected
        options = {zmq.RCVHWM: QUEUE, zmq.MAXMSGSIZE: max(max_frame_bytes, MAX_HEADER)}
        self._listening = ListeningSocket(
            zmq.PULL, endpoint, options, allow_remote=allow_remote, context=context
        )
        self._ending = threading.Event()
        # From here on the socket belongs to the thread.
        self._thread = threading.Thread(target=self._receive_all, name="frame-socket", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def last_endpoint(self) -> str:
        """Endpoint at which it listens; of a wildcard, with the port that it got."""
        return self._listening.endpoint

    @property
    def is_alive(self) -> bool:
        """Whether messages are being received."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Receive nothing more and free the endpoint; from any thread, repeatedly.

        Messages that wait in the socket are lost with it. The endpoint is free on return, unless a callback
        calls this: then it is soon after the callback.
        """
        self._ending.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _receive_all(self) -> None:
        try:
            while not self._ending.is_set():
                if self._listening.socket.poll(POLL_MS):
                    self._receive_one()
        finally:
            self._listening.close()

    def _receive_one(self) -> None:
        source = self._listening.socket
        parts = [source.recv()]
        while source.getsockopt(zmq.RCVMORE):
            part = source.recv()
            if len(parts) < PARTS_KEPT:
                parts.append(part)
        try:
            try:
                frame = decode_frame(parts)
            except MessageError as error:
                self._on_rejected(error)
            else:
                self._on_frame(frame, parts)
        except Exception:
            _log.exception("the handler of a message failed")
