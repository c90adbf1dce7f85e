"""Metrics and health over HTTP, for Prometheus and for whoever restarts the service. HTTP by aiohttp."""

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from types import TracebackType
from typing import Self

from aiohttp import web

from engine.errors import LiveError
from engine.live.service.metrics import CONTENT_TYPE
from engine.live.service.state import Health
from engine.live.wire.endpoints import require_loopback_host

LINE_BYTES = 8192
"""Longest request line, and longest header."""

CONNECTION_SECONDS = 5.0
"""In which a request must be complete and its answer taken; then the connection is cut."""

CONNECTIONS = 16
"""Number of requests answered at a time; further connections are closed."""

SHUTDOWN_SECONDS = 1.0
"""How long a client that is slow may hold up the end of the service."""

SILENT = logging.CRITICAL + 1
"""Level of a log that nothing gets into."""

HEADERS = {"Server": "deq-mpi", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""Of every answer."""

_log = logging.getLogger(__name__)


class StatusServer:
    """Server that answers ``GET /metrics``, ``/health`` and ``/ready`` from construction to `close`.

    /metrics is the text format of Prometheus. The other two answer 200 where everything is as it should be
    and 503 where it is not, with the reasons as JSON. Nothing of a request is used but its path. It has an
    event loop in a thread of its own.

    Parameters
    ----------
    host : str
        Address to listen at.
    port : int
        Port; 0 for a free one.
    metrics : callable
        Function that returns the text for a scrape.
    health, ready : callable
        Functions that return whether the service is alive, and whether frames may be sent.
    allow_remote : bool
        Whether the address may be reached from other machines.

    Raises
    ------
    ConfigError
        If the address is reached from other machines and that is not allowed.
    LiveError
        If the address cannot be had, such as when it is taken.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        metrics: Callable[[], bytes],
        health: Callable[[], Health],
        ready: Callable[[], Health],
        allow_remote: bool = False,
    ) -> None:
        require_loopback_host(host, allow_remote=allow_remote)
        self._answers: dict[str, Callable[[], web.Response]] = {
            "/metrics": lambda: _response(HTTPStatus.OK, CONTENT_TYPE, metrics()),
            "/health": lambda: _health_response(health()),
            "/ready": lambda: _health_response(ready()),
        }
        try:
            listening = _listen(host, port)
        except (OSError, OverflowError) as error:
            raise LiveError(
                f"cannot listen at {host} port {port} ({error}); end the program that listens there, or "
                "choose another port"
            ) from error
        self._address = listening.getsockname()[:2]
        self._loop, self._ending = asyncio.new_event_loop(), asyncio.Event()
        self._thread = threading.Thread(
            target=self._loop.run_until_complete,
            args=(self._serve(listening),),
            name="status-server",
            daemon=True,
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Beginning of the addresses of the pages, such as ``http://127.0.0.1:9109``."""
        host, port = self._address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def close(self) -> None:
        """Answer nothing more and free the port; repeatedly, if need be."""
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self, listening: socket.socket) -> None:
        # Neither the requests, which come for as long as the service runs, nor what is no HTTP fill the log.
        server = _BoundedServer(
            self._respond,
            access_log=None,
            logger=logging.Logger("silent", SILENT),
            lingering_time=0,
            max_line_size=LINE_BYTES,
            max_field_size=LINE_BYTES,
        )
        runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_SECONDS)
        await runner.setup()
        try:
            await web.SockSite(runner, listening, backlog=2 * CONNECTIONS).start()
            await self._ending.wait()
        finally:
            await runner.cleanup()

    async def _respond(self, request: web.BaseRequest) -> web.Response:
        if request.method != "GET":
            return _error(HTTPStatus.NOT_IMPLEMENTED, "expected GET")
        answer = self._answers.get(request.raw_path)
        if answer is None:
            return _error(HTTPStatus.NOT_FOUND, "no such page; expected /metrics, /health or /ready")
        try:
            return answer()
        except Exception:
            _log.exception("the answer to %s failed", request.raw_path)
            return _error(HTTPStatus.INTERNAL_SERVER_ERROR, "the log of the service says why")


class _BoundedServer(web.Server):
    """A server of few connections, each for a short time: clients that say nothing do not use it up."""

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        seconds = CONNECTION_SECONDS if len(self.connections) <= CONNECTIONS else 0.0
        asyncio.get_running_loop().call_later(seconds, transport.abort)


def _listen(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen()
    except BaseException:
        listening.close()
        raise
    return listening


def _response(status: HTTPStatus, content_type: str, content: bytes) -> web.Response:
    response = web.Response(status=status, body=content, headers=HEADERS | {"Content-Type": content_type})
    response.force_close()  # a connection is for one request
    return response


def _health_response(health: Health) -> web.Response:
    status = HTTPStatus.OK if health.ok else HTTPStatus.SERVICE_UNAVAILABLE
    return _response(status, "application/json", json.dumps(health.to_dict()).encode() + b"\n")


def _error(status: HTTPStatus, message: str) -> web.Response:
    return _response(status, "text/plain; charset=utf-8", f"{message}\n".encode())
