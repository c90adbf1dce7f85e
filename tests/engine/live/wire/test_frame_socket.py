"""The frame socket takes every frame and survives everything else, with an exact account."""

import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import ConfigError, LiveError, MessageError
from engine.live.wire.frame_socket import FrameSocket
from engine.live.wire.messages import encode_frame
from engine.measurement.raw_frame import RawFrame

zmq = pytest.importorskip("zmq")

PATIENCE = 30.0
"""Seconds after which what should happen is taken not to happen."""

LARGEST = 10**6


class Inbox:
    """What a socket handed on."""

    def __init__(self) -> None:
        self.frames: list[RawFrame] = []
        self.messages: list[list[bytes]] = []
        self.rejected: list[MessageError] = []
        self._news = threading.Condition()

    def frame(self, frame: RawFrame, parts: list[bytes]) -> None:
        with self._news:
            self.frames.append(frame)
            self.messages.append(parts)
            self._news.notify_all()

    def reject(self, error: MessageError) -> None:
        with self._news:
            self.rejected.append(error)
            self._news.notify_all()

    def wait(self, n_frames: int, n_rejected: int = 0) -> None:
        def is_there() -> bool:
            return len(self.frames) >= n_frames and len(self.rejected) >= n_rejected

        with self._news:
            assert self._news.wait_for(is_there, PATIENCE), (len(self.frames), len(self.rejected))

    @property
    def sequences(self) -> list[int]:
        return [frame.sequence for frame in self.frames]


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def frame_socket(inbox: Inbox) -> Iterator[FrameSocket]:
    with FrameSocket("tcp://127.0.0.1:*", LARGEST, inbox.frame, inbox.reject) as opened:
        yield opened


@pytest.fixture
def new_producer() -> Iterator[Callable[[str], Any]]:
    """Make connected PUSH sockets, in a context of their own."""
    with zmq.Context() as context:
        made = []

        def make(endpoint: str) -> Any:
            producer = context.socket(zmq.PUSH)
            made.append(producer)
            producer.setsockopt(zmq.LINGER, 0)
            producer.setsockopt(zmq.SNDTIMEO, int(1000 * PATIENCE))
            producer.setsockopt(zmq.RECONNECT_IVL, 20)
            producer.connect(endpoint)
            return producer

        yield make
        for producer in made:
            producer.close()


def frame(sequence: int, size: int = 8) -> list[bytes]:
    return encode_frame(RawFrame(sequence, np.full((1, 1, size), sequence, np.float32)))


def tcp(opened: FrameSocket) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(opened.last_endpoint.rpartition(":")[2])), PATIENCE)


def zmtp_producer(opened: FrameSocket) -> socket.socket:
    """A connection after the handshake of ZMTP 3.0, as a PUSH socket makes it, by hand."""
    connection = tcp(opened)
    connection.sendall(b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
    ready = b"\x05READY" + b"\x0bSocket-Type" + struct.pack(">I", 4) + b"PUSH"
    connection.sendall(struct.pack("BB", 0x04, len(ready)) + ready)
    answer = b""
    while b"READY" not in answer:
        answer += connection.recv(4096)
    return connection


def zmtp_part(part: bytes, *, more: bool) -> bytes:
    return struct.pack(">BQ", 0x02 | more, len(part)) + part


def test_frames_arrive_in_order(frame_socket: FrameSocket, inbox: Inbox, new_producer: Callable) -> None:
    producer = new_producer(frame_socket.last_endpoint)
    for sequence in range(300):
        producer.send_multipart(frame(sequence))
    inbox.wait(300)
    assert inbox.sequences == list(range(300))
    np.testing.assert_array_equal(inbox.frames[7].data, np.full((1, 1, 8), 7, np.float32))
    assert not inbox.rejected


def test_frame_comes_with_its_message_and_is_a_view_of_it(
    frame_socket: FrameSocket, inbox: Inbox, new_producer: Callable
) -> None:
    sent = frame(3, size=1000)
    new_producer(frame_socket.last_endpoint).send_multipart(sent)
    inbox.wait(1)
    assert inbox.messages == [sent]
    assert np.shares_memory(inbox.frames[0].data, np.frombuffer(inbox.messages[0][1], np.uint8))


def test_several_producers(frame_socket: FrameSocket, inbox: Inbox, new_producer: Callable) -> None:
    producers = [new_producer(frame_socket.last_endpoint) for _ in range(3)]
    for sequence in range(30):
        producers[sequence % 3].send_multipart(frame(sequence))
    inbox.wait(30)
    assert sorted(inbox.sequences) == list(range(30))


def test_wildcard_gets_a_port(frame_socket: FrameSocket) -> None:
    assert int(frame_socket.last_endpoint.removeprefix("tcp://127.0.0.1:")) > 0


def test_ipc(tmp_path: Path, inbox: Inbox, new_producer: Callable) -> None:
    endpoint = f"ipc://{tmp_path}/frames"
    for _ in range(2):  # also over what the first left behind
        with FrameSocket(endpoint, LARGEST, inbox.frame, inbox.reject) as opened:
            new_producer(opened.last_endpoint).send_multipart(frame(1))
            inbox.wait(1)
            with pytest.raises(LiveError, match="in use"):
                FrameSocket(endpoint, LARGEST, inbox.frame, inbox.reject)
        inbox.frames.clear()


def test_inproc_shares_a_context(inbox: Inbox) -> None:
    with (
        zmq.Context() as context,
        FrameSocket("inproc://frames", LARGEST, inbox.frame, inbox.reject, context=context) as opened,
        context.socket(zmq.PUSH) as producer,
    ):
        producer.connect(opened.last_endpoint)
        producer.send_multipart(frame(1))
        inbox.wait(1)


def test_messages_that_are_no_frames_are_handed_on_with_their_reason(
    frame_socket: FrameSocket, inbox: Inbox, new_producer: Callable
) -> None:
    text, values = frame(0)
    producer = new_producer(frame_socket.last_endpoint)
    for parts in (
        [b""],
        [text],
        [text, values, b""],
        [b""] * 1000,
        [values, text],
        [text, values[:-1]],
        [text.replace(b'"version":1', b'"version":2'), values],
        [text.replace(b"float32", b"float16"), values],
        frame(1),
    ):
        producer.send_multipart(parts)
    inbox.wait(1, 8)
    reasons = [error.reason for error in inbox.rejected]
    assert reasons == ["parts", "parts", "parts", "parts", "header", "size", "version", "dtype"]
    assert inbox.sequences == [1]


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        bytes(range(256)) * 40,
        b"\xff" * 10_000,
        b"\0" * 10_000,
        b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32) + b"\xff" * 500,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300),
        b"",
    ],
    ids=["http", "all bytes", "ones", "zeros", "another mechanism", "tls", "nothing"],
)
def test_garbage_on_the_port(
    garbage: bytes, frame_socket: FrameSocket, inbox: Inbox, new_producer: Callable
) -> None:
    with tcp(frame_socket) as connection:
        connection.sendall(garbage)
        producer = new_producer(frame_socket.last_endpoint)
        producer.send_multipart(frame(1))
        inbox.wait(1)
    producer.send_multipart(frame(2))
    inbox.wait(2)
    assert inbox.sequences == [1, 2]


@pytest.mark.parametrize("cut", ["in the header", "between the parts", "in the values"])
def test_producer_that_dies_in_the_middle_of_a_message(
    cut: str, frame_socket: FrameSocket, inbox: Inbox, new_producer: Callable
) -> None:
    text, values = frame(2, 1000)
    whole = zmtp_part(text, more=True) + zmtp_part(values, more=False)
    first = len(zmtp_part(text, more=True))
    end = {"in the header": first - 5, "between the parts": first, "in the values": len(whole) - 100}[cut]
    connection = zmtp_producer(frame_socket)
    complete = frame(1)
    connection.sendall(zmtp_part(complete[0], more=True) + zmtp_part(complete[1], more=False))
    inbox.wait(1)  # so the handshake by hand is right
    connection.sendall(whole[:end])
    connection.setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )  # reset, as by a crash
    connection.close()
    producer = new_producer(frame_socket.last_endpoint)
    producer.send_multipart(frame(3))
    inbox.wait(2)
    assert inbox.sequences == [1, 3]
    assert not inbox.rejected


KILLED = """
import os, sys, zmq, numpy as np
from engine.live.wire.messages import encode_frame
from engine.measurement.raw_frame import RawFrame
producer = zmq.Context().socket(zmq.PUSH)
producer.connect(sys.argv[1])
sequence = 0
while True:
    producer.send_multipart(encode_frame(RawFrame(sequence, np.zeros((1, 1, 100_000), np.float32))))
    sequence += 1
"""


def test_producer_that_is_killed_while_it_sends(
    frame_socket: FrameSocket, inbox: Inbox, new_producer: Callable
) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, frame_socket.last_endpoint]) as process:
        inbox.wait(20)
        os.kill(process.pid, signal.SIGKILL)
    producer = new_producer(frame_socket.last_endpoint)
    producer.send_multipart(frame(10**6))
    deadline = time.monotonic() + PATIENCE
    while 10**6 not in inbox.sequences and time.monotonic() < deadline:
        time.sleep(0.01)
    sequences = [number for number in inbox.sequences if number != 10**6]
    assert 10**6 in inbox.sequences
    assert sequences == list(range(len(sequences)))  # all whole, none missing, none twice
    assert not inbox.rejected


def test_too_large_a_part_ends_its_connection_only(
    frame_socket: FrameSocket, inbox: Inbox, new_producer: Callable
) -> None:
    endpoint = frame_socket.last_endpoint
    large, small = new_producer(endpoint), new_producer(endpoint)
    large.send_multipart([b"", bytes(LARGEST + 1)])
    small.send_multipart(frame(1))
    inbox.wait(1)
    large.send_multipart(frame(2))  # over a new connection
    inbox.wait(2)
    assert inbox.sequences == [1, 2]
    assert not inbox.rejected


def test_part_announced_larger_than_any_memory(frame_socket: FrameSocket, inbox: Inbox) -> None:
    with zmtp_producer(frame_socket) as connection:
        connection.sendall(struct.pack(">BQ", 0x02, 2**62) + b"x" * 100)
        assert connection.recv(1000) == b""  # the connection was closed at once
    assert frame_socket.is_alive
    assert not inbox.frames


def test_handler_that_fails_is_logged_and_the_next_frame_is_received(
    inbox: Inbox, new_producer: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    def fail_once(frame: RawFrame, parts: list[bytes]) -> None:
        inbox.frame(frame, parts)
        if len(inbox.frames) == 1:
            raise RuntimeError("no")

    with (
        caplog.at_level(logging.ERROR),
        FrameSocket("tcp://127.0.0.1:*", LARGEST, fail_once, inbox.reject) as opened,
    ):
        producer = new_producer(opened.last_endpoint)
        for sequence in (1, 2):
            producer.send_multipart(frame(sequence))
        inbox.wait(2)
    assert inbox.sequences == [1, 2]
    assert [record.getMessage() for record in caplog.records] == ["the handler of a message failed"]


def test_endpoint_that_is_taken(frame_socket: FrameSocket, inbox: Inbox) -> None:
    with pytest.raises(LiveError, match="end the program that listens there"):
        FrameSocket(frame_socket.last_endpoint, LARGEST, inbox.frame, inbox.reject)


def test_endpoint_is_free_after_closing(inbox: Inbox) -> None:
    opened = FrameSocket("tcp://127.0.0.1:*", LARGEST, inbox.frame, inbox.reject)
    for _ in range(5):
        opened.close()
        opened.close()
        assert not opened.is_alive
        opened = FrameSocket(opened.last_endpoint, LARGEST, inbox.frame, inbox.reject)
    opened.close()


def test_closing_from_the_callback(inbox: Inbox, new_producer: Callable) -> None:
    opened = FrameSocket("tcp://127.0.0.1:*", LARGEST, lambda *_: opened.close(), inbox.reject)
    new_producer(opened.last_endpoint).send_multipart(frame(1))
    deadline = time.monotonic() + PATIENCE
    while opened.is_alive and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not opened.is_alive


def test_closing_while_frames_come(inbox: Inbox, new_producer: Callable) -> None:
    with FrameSocket("tcp://127.0.0.1:*", LARGEST, inbox.frame, inbox.reject) as opened:
        producer = new_producer(opened.last_endpoint)
        for sequence in range(500):
            producer.send_multipart(frame(sequence), zmq.NOBLOCK)
        inbox.wait(1)
    received = len(inbox.frames)
    assert inbox.sequences == list(range(received))


def test_remote_endpoint_needs_a_permission(inbox: Inbox) -> None:
    with pytest.raises(ConfigError, match="allow_remote"):
        FrameSocket("tcp://0.0.0.0:*", LARGEST, inbox.frame, inbox.reject)
    with FrameSocket("tcp://0.0.0.0:*", LARGEST, inbox.frame, inbox.reject, allow_remote=True) as opened:
        assert opened.last_endpoint.startswith("tcp://0.0.0.0:")


def test_address_that_is_not_of_this_machine(inbox: Inbox) -> None:
    with pytest.raises(LiveError, match="cannot listen at"):
        FrameSocket("tcp://192.0.2.1:5555", LARGEST, inbox.frame, inbox.reject, allow_remote=True)
