"""10,000 messages, most of them broken: each is a valid frame or refused with a known reason."""

import json
import math
import random
import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest

from engine.errors import MessageError
from engine.live.wire.frame_socket import FrameSocket
from engine.live.wire.messages import REASONS, decode_frame
from engine.measurement.raw_frame import RawFrame

zmq = pytest.importorskip("zmq")

MESSAGES = 10_000
SEED = 20261123
ARRIVAL = 60.0
"""Seconds after which messages are taken to be lost."""

ITEM_BYTES = {"complex64": 8, "complex128": 16, "float32": 4, "float64": 8, "int16": 2, "int32": 4}

STRANGE: list[Any] = [
    None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63 - 1, 2**63, 2**64, 10**300, 0.0, 1.0, -0.5, 1e308,
    "", "1", "complex64", "float64", "object", "x" * 65, "\n", "\ud800", "../../etc/passwd", [], [0], [1],
    [1, 1, 1], [2, 3, 4], [-1, 2, 3], [2**40, 2**40, 2**40], [True, 1, 1], ["1", 1, 1], [[1], 1, 1],
    {}, {"a": 1}, {"__class__": "os.system"}, float("nan"), float("inf"),
]  # fmt: skip

INSERTED = [b"[", b"{", b'"', b"\\ud8", b"NaN", b"9" * 30]

KEYS = ["kind", "version", "stream", "sequence", "background", "dtype", "shape", "bins", "acquired_ns"]


def valid_message(rng: random.Random) -> tuple[dict[str, Any], bytes]:
    """Header and values of a frame of random type and shape."""
    dtype = rng.choice(list(ITEM_BYTES))
    shape = [rng.randint(1, 3), rng.randint(1, 2), rng.randint(1, 5)]
    header: dict[str, Any] = {
        "kind": "deq-mpi-frame",
        "version": 1,
        "stream": rng.choice(["", "a", "Lauf 7"]),
        "sequence": rng.randint(0, 2**40),
        "background": rng.random() < 0.5,
        "dtype": dtype,
        "shape": shape,
    }
    if dtype.startswith("complex") and rng.random() < 0.5:
        header["bins"] = sorted(rng.sample(range(1000), shape[2]))
    if rng.random() < 0.5:
        header["acquired_ns"] = rng.randint(0, 2**62)
    return header, rng.randbytes(ITEM_BYTES[dtype] * math.prod(shape))


def damaged_bytes(rng: random.Random, data: bytes) -> bytes:
    """Bytes with some flipped, inserted, removed, doubled or cut off."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(found) + 1)
        end = min(len(found), place + rng.randint(1, 8))
        match rng.randrange(5):
            case 0 if place < len(found):
                found[place] ^= 1 << rng.randrange(8)
            case 1:
                found[place:place] = rng.choice(
                    [rng.randbytes(3), b"[", b"{", b'"', b"\\ud8", b"NaN", b"9" * 30]
                )
            case 2:
                del found[place:end]
            case 3:
                found[place:place] = found[place:end]
            case _:
                del found[place:]
    return bytes(found)


def damaged_header(rng: random.Random, header: dict[str, Any]) -> bytes:
    """A header as text with a key changed, removed, added, doubled or put deep inside others."""
    key = rng.choice(KEYS)
    match rng.randrange(6):
        case 0 | 1 | 2:
            header = header | {key: rng.choice(STRANGE)}
        case 3:
            header = {name: value for name, value in header.items() if name != key}
        case 4:
            header = header | {rng.choice(["Shape", "", "sequence ", "_free", "path"]): rng.choice(STRANGE)}
        case _:
            twice = json.dumps(header)[:-1] + f", {json.dumps(key)}: {json.dumps(rng.choice(STRANGE))}}}"
            return twice.encode()
    text = json.dumps(header)
    if rng.random() < 0.1:
        depth = rng.choice([10, 200, 2000])
        text = text[:-1] + ', "_deep": ' + "[" * depth + "]" * depth + "}"
    return text.encode(rng.choice(["utf-8", "utf-8", "utf-8", "utf-16", "utf-8-sig"]))


def fuzzed_message(rng: random.Random) -> list[bytes]:
    """The parts of a message that may be broken in any way; at least one part."""
    header, values = valid_message(rng)
    text = json.dumps(header).encode()
    match rng.randrange(8):
        case 0:
            return [text, values]
        case 1 | 2:
            return [damaged_bytes(rng, text), values]
        case 3:
            return [text, damaged_bytes(rng, values)]
        case 4 | 5:
            return [damaged_header(rng, header), values]
        case 6:
            parts = [text, values, b"", text, rng.randbytes(9)]
            return [rng.choice(parts) for _ in range(rng.randint(1, 5))]
        case _:
            return [rng.randbytes(rng.choice([0, 1, 5, 100, 3000])) for _ in range(rng.randint(1, 3))]


@pytest.fixture(scope="module")
def fuzzed() -> list[list[bytes]]:
    rng = random.Random(SEED)  # noqa: S311 - no secret
    return [fuzzed_message(rng) for _ in range(MESSAGES)]


def assert_valid(frame: RawFrame, parts: list[bytes]) -> None:
    """A frame that was read says what an ordinary reading of the header says, and keeps every rule."""
    text, values = parts
    header = json.loads(text.decode("utf-8"))
    assert {key for key in header if not key.startswith("_")} <= set(KEYS)
    assert (header["kind"], header["version"]) == ("deq-mpi-frame", 1)
    assert (frame.sequence, frame.stream) == (header["sequence"], header["stream"])
    assert type(frame.sequence) is int
    assert 0 <= frame.sequence < 2**63
    assert len(frame.stream) <= 64
    assert frame.is_background is header["background"]
    assert frame.acquired_ns == header.get("acquired_ns")
    assert frame.data.dtype == np.dtype(header["dtype"])
    assert frame.data.ndim == 3
    assert list(frame.data.shape) == header["shape"]
    assert frame.data.size > 0
    assert not frame.data.flags.writeable
    assert frame.data.tobytes() == values
    assert (frame.bins is None) == ("bins" not in header)
    if frame.bins is not None:
        assert frame.bins.tolist() == header["bins"]
        assert (np.diff(frame.bins) > 0).all()
        assert frame.bins.shape == frame.data.shape[2:]
        assert frame.data.dtype.kind == "c"


def test_every_message_is_a_frame_or_refused_with_a_known_reason(fuzzed: list[list[bytes]]) -> None:
    outcomes: Counter[str] = Counter()
    longest = lines = 0
    for parts in fuzzed:
        try:
            frame = decode_frame(parts)
        except MessageError as error:
            outcomes[error.reason] += 1
            longest = max(longest, len(str(error)))
            lines += str(error).count("\n")
        else:
            assert_valid(frame, parts)
            outcomes["frame"] += 1
    assert set(outcomes) == {"frame", *REASONS}  # nothing else, and each of them occurs
    assert min(outcomes.values()) >= 10
    assert longest < 500
    assert lines == 0


def test_every_message_through_a_socket_is_counted(fuzzed: list[list[bytes]]) -> None:
    expected: Counter[str] = Counter()
    for parts in fuzzed:
        try:
            decode_frame(parts)
            expected["frame"] += 1
        except MessageError as error:
            expected[error.reason] += 1
    counted: Counter[str] = Counter()
    complete = threading.Event()

    def count(outcome: str) -> None:
        counted[outcome] += 1
        if counted.total() == MESSAGES:
            complete.set()

    with (
        FrameSocket(
            "tcp://127.0.0.1:*", 10**6, lambda *_: count("frame"), lambda error: count(error.reason)
        ) as frames,
        zmq.Context() as context,
        context.socket(zmq.PUSH) as producer,
    ):
        producer.connect(frames.last_endpoint)
        for parts in fuzzed:
            producer.send_multipart(parts)
        assert complete.wait(ARRIVAL), f"{counted.total()} of {MESSAGES} messages arrived"
        assert frames.is_alive
    assert counted == expected
