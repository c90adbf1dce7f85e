"""A ZeroMQ socket that others connect to; once closed its endpoint is free again."""

from collections.abc import Mapping
from typing import Any

import zmq

from engine.errors import LiveError
from engine.live.wire.endpoints import require_free_path, require_loopback


class ListeningSocket:
    """A bound socket. Like any of ZeroMQ it is for one thread at a time.

    Parameters
    ----------
    kind : int
        Kind of socket, such as ``zmq.PULL``.
    endpoint : str
        Endpoint to listen at, see `engine.live.wire.endpoints.require_loopback`.
    options : mapping of zmq.SocketOption to int
        Options of the socket.
    allow_remote : bool
        Whether the endpoint may be reached from other machines.
    context : zmq.Context, optional
        Context of the other side, for ``inproc`` endpoints; it stays open. Else the socket has its own.

    Attributes
    ----------
    socket : zmq.Socket
        Socket for sending or receiving.
    endpoint : str
        Endpoint at which it listens; of a wildcard, with the port that it got.

    Raises
    ------
    ConfigError
        If the endpoint is reached from other machines and that is not allowed.
    LiveError
        If the endpoint cannot be had: taken, no such address, or not permitted.
    """

    def __init__(
        self,
        kind: int,
        endpoint: str,
        options: Mapping[zmq.SocketOption, int],
        *,
        allow_remote: bool = False,
        context: zmq.Context[Any] | None = None,
    ) -> None:
        require_loopback(endpoint, allow_remote=allow_remote)
        require_free_path(endpoint)
        self._owns_context = context is None
        self._context: zmq.Context[Any] = zmq.Context() if context is None else context
        self.socket: zmq.Socket[bytes] = self._context.socket(kind)
        try:
            self.socket.setsockopt(zmq.LINGER, 0)
            self.socket.setsockopt(zmq.IPV6, int("[" in endpoint))
            for option, value in options.items():
                self.socket.setsockopt(option, value)
            self.socket.bind(endpoint)
        except zmq.ZMQError as error:
            self.close()
            remedy = (
                "end the program that listens there, or choose another endpoint"
                if error.errno == zmq.EADDRINUSE
                else "choose an endpoint that this machine and this user can listen at"
            )
            raise LiveError(f"cannot listen at {endpoint} ({error.strerror}); {remedy}") from error
        self.endpoint = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self.socket.closed

    def close(self) -> None:
        """Free the endpoint; what waits to be sent or received is lost. Repeatedly, if need be."""
        self.socket.close()
        if self._owns_context:
            self._context.term()  # waits until the endpoint is free
