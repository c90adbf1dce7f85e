"""Metrics and health over HTTP, for Prometheus and for whoever restarts the service."""

import io
import json
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from engine.errors import LiveError
from engine.live.service.metrics import CONTENT_TYPE
from engine.live.service.state import Health
from engine.live.wire.endpoints import require_loopback_host

REQUEST_BYTES = 8192
"""Longest request, headers included."""

REQUEST_SECONDS = 5.0
"""Time in which a request must be complete, and in which each piece of the answer must be taken."""

CONNECTIONS = 16
"""Number of requests answered at a time; further connections are closed."""

POLL_SECONDS = 0.1
"""Longest time for which `close` waits for the thread to look up."""

_log = logging.getLogger(__name__)


class StatusServer:
    """Server that answers ``GET /metrics``, ``/health`` and ``/ready`` from construction to `close`.

    /metrics is the text format of Prometheus. The other two answer 200 where everything is as it should be
    and 503 where it is not, with the reasons as JSON. Nothing of a request is used but its path. It has
    threads of its own.

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
        answers = {
            "/metrics": lambda: (HTTPStatus.OK, CONTENT_TYPE, metrics()),
            "/health": lambda: _health_answer(health()),
            "/ready": lambda: _health_answer(ready()),
        }
        try:
            self._server = _Server((host, port), answers, is_ipv6=":" in host)
        except (OSError, OverflowError) as error:
            raise LiveError(
                f"cannot listen at {host} port {port} ({error}); end the program that listens there, or "
                "choose another port"
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_SECONDS,), name="status-server", daemon=True
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
        host, port = self._server.server_address[:2]
        return f"http://[{host!s}]:{port}" if ":" in str(host) else f"http://{host!s}:{port}"

    def close(self) -> None:
        """Answer nothing more and free the port; repeatedly, if need be."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


Answer = tuple[HTTPStatus, str, bytes]


def _health_answer(health: Health) -> Answer:
    status = HTTPStatus.OK if health.ok else HTTPStatus.SERVICE_UNAVAILABLE
    return status, "application/json", json.dumps(health.to_dict()).encode() + b"\n"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 2 * CONNECTIONS
    block_on_close = False  # a client that is slow must not hold up the end of the service

    def __init__(
        self, address: tuple[str, int], answers: dict[str, Callable[[], Answer]], *, is_ipv6: bool
    ) -> None:
        self.address_family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
        self.answers = answers
        self._places = threading.BoundedSemaphore(CONNECTIONS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # Not that of HTTPServer, which asks the network for the name of this machine.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away; a metrics page must not fill the log."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "deq-mpi"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        # Read first and within bounds; what parses it then cannot wait for more.
        self.rfile = io.BufferedReader(io.BytesIO(_request_head(self.connection)))

    def do_GET(self) -> None:
        """Answer one of the known paths."""
        answer = self.server.answers.get(self.path)
        if answer is None:
            self.send_error(HTTPStatus.NOT_FOUND, "no such page; expected /metrics, /health or /ready")
            return
        try:
            status, kind, content = answer()
        except Exception:
            _log.exception("the answer to %s failed", self.path)
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, explain="the log of the service says why")
            return
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: requests come every few seconds for as long as the service runs."""


def _request_head(connection: socket.socket) -> bytes:
    """Return the request line and the headers, or nothing if they are too long or too slow."""
    deadline = time.monotonic() + REQUEST_SECONDS
    found = b""
    while b"\r\n\r\n" not in found:
        left = deadline - time.monotonic()
        if left <= 0 or len(found) >= REQUEST_BYTES:
            return b""
        connection.settimeout(left)
        piece = connection.recv(REQUEST_BYTES - len(found))
        if not piece:
            return b""
        found += piece
    connection.settimeout(REQUEST_SECONDS)
    return found
