"""The image socket serves who reads, and whoever stops reading costs nothing but his own images."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import ConfigError, LiveError
from engine.live.wire.image_socket import QUEUE, ImageSocket

zmq = pytest.importorskip("zmq")

PATIENCE = 30.0
"""Seconds after which what should happen is taken not to happen."""

IMAGE_BYTES = 400_000

BUFFERS = 24_000_000
"""Bytes that a stuck subscriber may cost: some images of the queue and what the system's sockets take."""


@pytest.fixture
def image_socket() -> Iterator[ImageSocket]:
    with ImageSocket("tcp://127.0.0.1:*") as opened:
        yield opened


def greet(opened: ImageSocket, subscriber: "zmq.Socket") -> None:
    """Send until the subscription has arrived, then empty the subscriber."""
    deadline = time.monotonic() + PATIENCE
    while not subscriber.poll(10):
        assert time.monotonic() < deadline
        opened.send([b"image", b"hello"])
    while subscriber.poll(50):
        subscriber.recv_multipart()


@pytest.fixture
def new_subscriber(image_socket: ImageSocket):
    with zmq.Context() as context:
        made = []

        def make(topic: bytes = b"image", queue: int = 10_000) -> "zmq.Socket":
            subscriber = context.socket(zmq.SUB)
            made.append(subscriber)
            subscriber.setsockopt(zmq.RCVHWM, queue)
            subscriber.setsockopt(zmq.LINGER, 0)
            subscriber.setsockopt(zmq.SUBSCRIBE, topic)
            subscriber.connect(image_socket.last_endpoint)
            greet(image_socket, subscriber) if topic == b"image" else None
            return subscriber

        yield make
        for subscriber in made:
            subscriber.close()


def test_subscribers_get_what_they_subscribed_to(image_socket: ImageSocket, new_subscriber) -> None:
    image, other = new_subscriber(), new_subscriber()
    while image.poll(50):  # what the other was greeted with
        image.recv_multipart()
    status = new_subscriber(b"status")
    deadline = time.monotonic() + PATIENCE
    while not status.poll(10):
        assert time.monotonic() < deadline
        image_socket.send([b"status", b"{}"])
    assert status.recv_multipart() == [b"status", b"{}"]
    for _ in range(3):
        image_socket.send([b"image", b"{}", b"\1\2"])
        for subscriber in (image, other):
            assert subscriber.poll(int(1000 * PATIENCE))
            assert subscriber.recv_multipart() == [b"image", b"{}", b"\1\2"]


def test_without_subscribers_nothing_happens(image_socket: ImageSocket) -> None:
    for _ in range(1000):
        image_socket.send([b"image", b"{}", bytes(IMAGE_BYTES)])


STUCK = """
import sys, time, zmq
subscriber = zmq.Context().socket(zmq.SUB)
subscriber.setsockopt(zmq.RCVHWM, 1)
subscriber.setsockopt(zmq.SUBSCRIBE, b"image")
subscriber.connect(sys.argv[1])
subscriber.recv_multipart()
print("reading", flush=True)
time.sleep(600)
"""


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("is_stopped", [False, True], ids=["sleeps", "is stopped by a signal"])
def test_subscriber_that_stops_reading_loses_images_and_nothing_else(
    image_socket: ImageSocket, new_subscriber, is_stopped: bool
) -> None:
    healthy = new_subscriber()
    command = [sys.executable, "-c", STUCK, image_socket.last_endpoint]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as stuck:
        try:
            ready = threading.Thread(target=stuck.stdout.readline)
            ready.start()
            while ready.is_alive():
                image_socket.send([b"image", b"hello"])
                time.sleep(0.01)
            if is_stopped:
                os.kill(stuck.pid, signal.SIGSTOP)
            while healthy.poll(50):
                healthy.recv_multipart()
            before = resident_bytes()
            for number in range(500):  # 200 million bytes
                image_socket.send([b"image", b"%d" % number, os.urandom(8) * (IMAGE_BYTES // 8)])
                assert healthy.poll(int(1000 * PATIENCE))
                assert healthy.recv_multipart()[1] == b"%d" % number  # none is missing here
            assert resident_bytes() - before < BUFFERS
        finally:
            stuck.kill()


def test_slow_subscriber_gets_whole_messages_in_order(image_socket: ImageSocket, new_subscriber) -> None:
    slow = new_subscriber(queue=1)
    for number in range(300):
        image_socket.send([b"image", b"%d" % number, bytes(IMAGE_BYTES)])
    found = []
    while slow.poll(300):
        parts = slow.recv_multipart()
        assert len(parts) == 3
        assert len(parts[2]) == IMAGE_BYTES
        found.append(int(parts[1]))
    assert found == sorted(set(found))
    assert QUEUE <= len(found) < 300


def test_any_thread_may_send(image_socket: ImageSocket, new_subscriber) -> None:
    subscriber = new_subscriber()
    # A queue may overflow here, so what counts is that no message is torn.
    threads = [
        threading.Thread(
            target=lambda name=name: [
                image_socket.send([b"image", name, name * 100]) or time.sleep(0.0002) for _ in range(200)
            ]
        )
        for name in (b"a", b"b", b"c")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = []
    while subscriber.poll(300):
        found.append(subscriber.recv_multipart())
    assert {name for _, name, _ in found} == {b"a", b"b", b"c"}
    assert all(values == name * 100 for _, name, values in found)


def test_after_closing(image_socket: ImageSocket) -> None:
    endpoint = image_socket.last_endpoint
    image_socket.close()
    image_socket.close()
    with pytest.raises(LiveError, match="closed"):
        image_socket.send([b"image", b"{}", b""])
    with ImageSocket(endpoint) as again:
        assert again.last_endpoint == endpoint


def test_endpoint_that_is_taken(image_socket: ImageSocket) -> None:
    with pytest.raises(LiveError, match="end the program that listens there"):
        ImageSocket(image_socket.last_endpoint)


def test_remote_endpoint_needs_a_permission() -> None:
    with pytest.raises(ConfigError, match="allow_remote"):
        ImageSocket("tcp://*:*")
