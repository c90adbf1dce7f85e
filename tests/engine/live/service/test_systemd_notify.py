"""Notifications reach a real datagram socket, and hurt nothing where there is none."""

import os
import secrets
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import LiveError
from engine.live.service.systemd_notify import ServiceManager, watchdog_interval


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A socket as systemd opens it, and what it puts into NOTIFY_SOCKET."""
    if request.param == "abstract" and sys.platform != "linux":
        pytest.skip("abstract names are Linux's")
    name = str(tmp_path / "notify") if request.param == "path" else f"@deq-mpi-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name.replace("@", "\0"))
        listening.settimeout(10)
        yield listening, name


def test_notifications(manager: tuple[socket.socket, str], monkeypatch: pytest.MonkeyPatch) -> None:
    listening, name = manager
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    service = ServiceManager()
    assert service.is_listening
    service.ready("waiting for frames")
    service.watchdog()
    service.status("46.4 images/s\nREADY=0")
    service.stopping()
    received = [listening.recv(4096) for _ in range(4)]
    assert received == [
        b"READY=1\nSTATUS=waiting for frames",
        b"WATCHDOG=1",
        b"STATUS=46.4 images/s READY=0",
        b"STOPPING=1",
    ]


def test_without_a_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    service = ServiceManager()
    assert not service.is_listening
    service.ready()
    service.watchdog()
    service.status("x")
    service.stopping()


def test_manager_that_has_gone(tmp_path: Path) -> None:
    service = ServiceManager(str(tmp_path / "gone"))
    service.ready()
    service.watchdog()


def test_manager_that_does_not_read(manager: tuple[socket.socket, str]) -> None:
    service = ServiceManager(manager[1])
    for _ in range(5000):  # far more than its queue takes
        service.watchdog()


@pytest.mark.parametrize("address", ["relative/path", "tcp://127.0.0.1:1", "vsock:2:1"])
def test_address_that_is_none(address: str) -> None:
    with pytest.raises(LiveError, match="NOTIFY_SOCKET"):
        ServiceManager(address)


@pytest.mark.parametrize(
    ("microseconds", "pid", "expected"),
    [
        (None, None, None),
        ("20000000", None, 20.0),
        ("20000000", "own", 20.0),
        ("20000000", "1", None),
        ("0", None, None),
        ("soon", None, None),
        ("-5", None, None),
        ("٣", None, None),
    ],
)
def test_interval_of_the_watchdog(
    microseconds: str | None, pid: str | None, expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("WATCHDOG_USEC", microseconds), ("WATCHDOG_PID", pid)):
        if text is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, str(os.getpid()) if text == "own" else text)
    assert watchdog_interval() == (None if expected is None else pytest.approx(expected))
