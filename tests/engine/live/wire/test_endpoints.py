"""Endpoints: this machine only unless allowed, and nothing that exists is deleted for one."""

import socket
from pathlib import Path

import pytest

from engine.errors import ConfigError, LiveError
from engine.live.wire.endpoints import require_free_path, require_loopback, require_loopback_host

LOCAL = [
    "tcp://127.0.0.1:5555",
    "tcp://127.0.0.1:*",
    "tcp://127.0.0.1:0",
    "tcp://[::1]:5555",
    "ipc:///run/deq-mpi/frames",
    "ipc://@abstract",
    "inproc://frames",
]
REMOTE = [
    "tcp://0.0.0.0:5555",
    "tcp://*:5555",
    "tcp://192.168.1.7:5555",
    "tcp://eth0:5555",
    "tcp://[::]:5555",
]
WRONG = [
    "",
    "127.0.0.1:5555",
    "tcp://127.0.0.1",
    "tcp://127.0.0.1:port",
    "tcp://127.0.0.1:555555",
    "tcp://127.0.0.1:5555 tcp://0.0.0.0:5555",
    "tcp://127.0.0.1:5555\n",
    "tcp://127.0.0.1;0.0.0.0:5555",
    "tcp://127.0.0.1@example.org:5555",
    "ipc://",
    "inproc://",
    "udp://127.0.0.1:5555",
    "pgm://eth0;239.192.1.1:5555",
    "ws://127.0.0.1:5555",
    "file:///etc/passwd",
]


@pytest.mark.parametrize("endpoint", LOCAL)
@pytest.mark.parametrize("allow_remote", [False, True])
def test_endpoints_of_this_machine(endpoint: str, allow_remote: bool) -> None:
    require_loopback(endpoint, allow_remote=allow_remote)


@pytest.mark.parametrize("endpoint", [*REMOTE, "tcp://127.0.0.1.example.org:5555", "tcp://localhost:5555"])
def test_endpoints_that_others_reach_need_a_permission(endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"expected tcp://127\.0\.0\.1:PORT.*allow_remote = true"):
        require_loopback(endpoint)
    require_loopback(endpoint, allow_remote=True)


@pytest.mark.parametrize("endpoint", WRONG)
@pytest.mark.parametrize("allow_remote", [False, True])
def test_anything_else_is_refused(endpoint: str, allow_remote: bool) -> None:
    with pytest.raises(ConfigError, match=r"expected tcp://127\.0\.0\.1:PORT"):
        require_loopback(endpoint, allow_remote=allow_remote)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_addresses_of_this_machine(host: str) -> None:
    require_loopback_host(host)


@pytest.mark.parametrize("host", ["", "*", "::", "localhost", "192.168.1.7", "127.0.0.1.example.org"])
def test_other_addresses_need_a_permission(host: str) -> None:
    with pytest.raises(ConfigError, match="allow_remote = true"):
        require_loopback_host(host)
    require_loopback_host(host, allow_remote=True)


def test_path_in_use(tmp_path: Path) -> None:
    path = tmp_path / "frames"
    require_free_path(f"ipc://{path}")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        with pytest.raises(LiveError, match="in use"):
            require_free_path(f"ipc://{path}")
    require_free_path(f"ipc://{path}")  # left behind by a program that ended


def test_a_file_is_not_taken_for_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "measurement.mdf"
    path.write_bytes(b"precious")
    link = tmp_path / "link"
    link.symlink_to(path)
    for name in (path, link, tmp_path):
        with pytest.raises(LiveError, match="no socket"):
            require_free_path(f"ipc://{name}")
    with pytest.raises(LiveError, match="cannot listen"):
        require_free_path(f"ipc://{path}/frames")


def test_other_kinds_have_no_path() -> None:
    for endpoint in ("tcp://127.0.0.1:1", "inproc:///etc/passwd", "ipc://@/etc/passwd"):
        require_free_path(endpoint)
