"""Socket at which images go out: a ZeroMQ PUB socket that waits for nobody."""

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import zmq

from engine.errors import LiveError
from engine.live.wire.listening_socket import ListeningSocket

QUEUE = 8
"""Number of messages that wait for a subscriber (SNDHWM). One that is too slow gets no others meanwhile."""

LONGEST_SUBSCRIPTION = 256
"""Most bytes that a subscriber may send."""


class ImageSocket:
    """Socket that publishes messages; usable from any thread, one at a time.

    A subscriber that stops reading loses messages, and nothing else happens: not more than `QUEUE` of them
    and what the system's buffers take are kept for it.

    Parameters
    ----------
    endpoint : str
        Endpoint to listen at, such as ``tcp://127.0.0.1:5556``; port ``*`` for a free one.
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
        *,
        allow_remote: bool = False,
        context: zmq.Context[Any] | None = None,
    ) -> None:
        options = {zmq.SNDHWM: QUEUE, zmq.MAXMSGSIZE: LONGEST_SUBSCRIPTION}
        self._listening = ListeningSocket(
            zmq.PUB, endpoint, options, allow_remote=allow_remote, context=context
        )
        self._lock = threading.Lock()

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

    def send(self, parts: Sequence[bytes]) -> None:
        """Hand a message to all who subscribe to its first part; never waits for them.

        Raises
        ------
        LiveError
            If the socket is closed.
        """
        with self._lock:
            if self._listening.is_closed:
                raise LiveError("the image socket is closed; expected no images after that; open another")
            # ZeroMQ hears of what subscribers have read when it is asked, else only now and then: after a few
            # quick images it would take a queue for full that is empty.
            self._listening.socket.getsockopt(zmq.EVENTS)
            self._listening.socket.send_multipart(parts, zmq.NOBLOCK)

    def close(self) -> None:
        """Free the endpoint; repeatedly. Messages that have not been sent are lost."""
        with self._lock:
            self._listening.close()
