"""The status server answers three paths, to whatever is sent within its bounds, and on this machine only."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from urllib.parse import urlsplit

import pytest

pytest.importorskip("prometheus_client")
pytest.importorskip("aiohttp")

from engine.errors import ConfigError, LiveError
from engine.live.service import status_server
from engine.live.service.state import Health
from engine.live.service.status_server import CONNECTIONS, LINE_BYTES, StatusServer

PATIENCE = 20.0
"""Seconds after which what should happen is taken not to happen."""


class Service:
    """What the pages show."""

    metrics = b"deqmpi_frames_total 3.0\n"
    health = Health(True, (), ("recording stopped: no space left",))
    ready = Health(False, ("operators and model are not yet loaded and checked",), ())


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def server(service: Service) -> Iterator[StatusServer]:
    with StatusServer(
        "127.0.0.1",
        0,
        metrics=lambda: service.metrics,
        health=lambda: service.health,
        ready=lambda: service.ready,
    ) as opened:
        yield opened


def pages(metrics: bytes) -> dict:
    """Pages that say that all is well."""
    return {"metrics": lambda: metrics, "health": lambda: Service.health, "ready": lambda: Service.health}


def get(server: StatusServer, path: str, method: str = "GET", body: bytes | None = None):
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=PATIENCE)
    with closing(connection):
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer, answer.read()


def tcp(server: StatusServer) -> socket.socket:
    parts = urlsplit(server.url)
    return socket.create_connection((parts.hostname, parts.port), PATIENCE)


def everything(connection: socket.socket) -> bytes:
    found = b""
    try:
        while piece := connection.recv(65536):
            found += piece
    except ConnectionResetError:  # closed with some of the request unread
        pass
    return found


def test_metrics(server: StatusServer) -> None:
    answer, content = get(server, "/metrics")
    assert (answer.status, content) == (200, b"deqmpi_frames_total 3.0\n")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")


def test_health_and_readiness(server: StatusServer, service: Service) -> None:
    answer, content = get(server, "/health")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert json.loads(content) == {
        "ok": True,
        "reasons": [],
        "degraded": ["recording stopped: no space left"],
    }
    answer, content = get(server, "/ready")
    assert answer.status == 503
    assert json.loads(content)["reasons"] == ["operators and model are not yet loaded and checked"]
    service.ready = service.health
    assert get(server, "/ready")[0].status == 200


@pytest.mark.parametrize(
    "path", ["/", "/metrics/", "/metrics?x=1", "/../etc/passwd", "/%6detrics", "/favicon.ico"]
)
def test_other_paths(path: str, server: StatusServer) -> None:
    answer, content = get(server, path)
    assert answer.status == 404
    assert b"passwd" not in content


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "CONNECT", "PATCH"])
def test_other_methods(method: str, server: StatusServer) -> None:
    assert get(server, "/metrics", method)[0].status == 501


def test_method_that_http_does_not_know(server: StatusServer) -> None:
    assert get(server, "/metrics", "X")[0].status == 400


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00" + bytes(200) + b"\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET " + b"/" * 2 * LINE_BYTES + b" HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
        b"GET /metrics HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n" + bytes(1000),
        b"\0" * 2 * LINE_BYTES,
    ],
)
def test_after_a_strange_request_the_next_is_answered(
    request_bytes: bytes, server: StatusServer, caplog: pytest.LogCaptureFixture
) -> None:
    with tcp(server) as connection:
        try:
            connection.sendall(request_bytes)
            connection.shutdown(socket.SHUT_WR)
        except (ConnectionResetError, BrokenPipeError, OSError):
            pass
        everything(connection)
    assert get(server, "/metrics")[0].status == 200
    assert not caplog.records  # strangers cannot fill the log


def test_connections_that_say_nothing_are_ended(
    server: StatusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_server, "CONNECTION_SECONDS", 1.0)
    with ExitStack() as stack:
        idle = [stack.enter_context(tcp(server)) for _ in range(CONNECTIONS)]
        one_more = stack.enter_context(tcp(server))
        assert everything(one_more) == b""  # closed, as there is no place
        for letter in "GET":  # what drips in does not prolong it
            idle[0].sendall(letter.encode())
            time.sleep(0.05)
        assert [everything(connection) for connection in idle] == [b""] * CONNECTIONS
    deadline = time.monotonic() + PATIENCE
    while True:  # the place is given back a moment after the connection is closed
        try:
            assert get(server, "/metrics")[0].status == 200
            break
        except (http.client.RemoteDisconnected, ConnectionResetError):
            assert time.monotonic() < deadline


def test_page_that_fails(server: StatusServer, service: Service, caplog: pytest.LogCaptureFixture) -> None:
    del Service.metrics
    try:
        answer, content = get(server, "/metrics")
    finally:
        Service.metrics = b"deqmpi_frames_total 3.0\n"
    assert answer.status == 500
    assert b"AttributeError" not in content
    assert [record.getMessage() for record in caplog.records] == ["the answer to /metrics failed"]
    assert get(server, "/metrics")[0].status == 200


def test_address_of_others_needs_a_permission() -> None:
    for host in ("", "::", "192.0.2.1"):
        with pytest.raises(ConfigError, match="allow_remote"):
            StatusServer(host, 0, **pages(b""))
    with StatusServer("", 0, allow_remote=True, **pages(b"")) as opened:
        assert opened.url.startswith("http://0.0.0.0:")
    with pytest.raises(LiveError, match="cannot listen at"):
        StatusServer("192.0.2.1", 0, allow_remote=True, **pages(b""))


@pytest.mark.parametrize("port", [-1, 65536])
def test_port_that_is_none(port: int) -> None:
    with pytest.raises(LiveError, match="choose another port"):
        StatusServer(
            "127.0.0.1",
            port,
            metrics=lambda: b"",
            health=lambda: Service.health,
            ready=lambda: Service.health,
        )


def test_port_that_is_taken_and_free_again(server: StatusServer) -> None:
    port = urlsplit(server.url).port
    assert port is not None
    with pytest.raises(LiveError, match="choose another port"):
        StatusServer("127.0.0.1", port, **pages(b""))
    server.close()
    server.close()
    with StatusServer("127.0.0.1", port, **pages(b"again")) as again:
        assert get(again, "/metrics")[1] == b"again"


def test_ipv6() -> None:
    try:
        server = StatusServer("::1", 0, **pages(b"six"))
    except LiveError:
        pytest.skip("this machine has no IPv6")
    with server:
        assert server.url.startswith("http://[::1]:")
        assert get(server, "/metrics")[1] == b"six"
