"""Messages on the wire, against encoders and decoders written with struct and json alone."""

import json
import math
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from engine.errors import MessageError
from engine.fixed_point.solution import Result
from engine.live.loop.counters import Counters
from engine.live.loop.live_image import BackgroundState, Flag, LiveImage, LiveReport
from engine.live.wire import messages
from engine.live.wire.messages import (
    FRAME_TYPES,
    REASONS,
    decode_frame,
    decode_image,
    decode_status,
    encode_frame,
    encode_image,
    encode_status,
)
from engine.live.wire.strict_json import MAX_BRACKETS, MAX_HEADER
from engine.measurement.raw_frame import RawFrame
from engine.mpi.grid import Grid
from engine.networks.interval_table import Interval
from engine.reconstruction.report import FrameReport

STRUCT_CODES = {
    "complex64": "2f",
    "complex128": "2d",
    "float32": "f",
    "float64": "d",
    "int16": "h",
    "int32": "i",
}

HEADER_MEMORY = 32 * MAX_HEADER
"""What parsing the worst header may take: a list of empty lists is 64 bytes of memory per 3 of text."""

VALID = {
    "kind": "deq-mpi-frame",
    "version": 1,
    "stream": "run 7",
    "sequence": 12,
    "background": False,
    "dtype": "complex64",
    "shape": [1, 1, 2],
    "bins": [3, 5],
    "acquired_ns": 1764000000000000000,
}

VALUES = struct.pack("<4f", 1, 2, 3, 4)


def changed(**changes: Any) -> bytes:
    """The valid header with some keys changed, or left out where the value is `...`."""
    values = VALID | changes
    return json.dumps({key: value for key, value in values.items() if value is not ...}).encode()


def refusal(parts: list[Any]) -> MessageError:
    with pytest.raises(MessageError) as caught:
        decode_frame(parts)
    assert caught.value.reason in REASONS
    assert "\n" not in str(caught.value)
    assert "expected" in str(caught.value)
    assert len(str(caught.value)) < 500
    return caught.value


def struct_bytes(data: np.ndarray) -> bytes:
    """The values one by one, little-endian."""
    flat = [
        part
        for value in data.ravel().tolist()
        for part in ((value.real, value.imag) if isinstance(value, complex) else (value,))
    ]
    return b"".join(struct.pack("<" + STRUCT_CODES[data.dtype.name][-1], value) for value in flat)


@st.composite
def frames(draw: st.DrawFn) -> RawFrame:
    dtype = np.dtype(draw(st.sampled_from(FRAME_TYPES))).newbyteorder(draw(st.sampled_from("<>")))
    shape = draw(arrays.array_shapes(min_dims=3, max_dims=3, max_side=4))
    data = draw(arrays.arrays(dtype, shape))
    bins = None
    if dtype.kind == "c" and draw(st.booleans()):
        numbers = st.integers(0, 2**63 - 1)
        bins = np.array(sorted(draw(st.sets(numbers, min_size=shape[2], max_size=shape[2]))), dtype=np.int64)
    return RawFrame(
        sequence=draw(st.integers(0, 2**63 - 1)),
        data=data,
        stream=draw(st.text(max_size=64).filter(str.isprintable)),
        is_background=draw(st.booleans()),
        bins=bins,
        acquired_ns=draw(st.none() | st.integers(0, 2**63 - 1)),
    )


@given(frames())
def test_encoded_frame_is_what_the_page_describes(frame: RawFrame) -> None:
    text, values = encode_frame(frame)
    expected = {
        "kind": "deq-mpi-frame",
        "version": 1,
        "stream": frame.stream,
        "sequence": frame.sequence,
        "background": frame.is_background,
        "dtype": frame.data.dtype.name,
        "shape": list(frame.data.shape),
    }
    if frame.bins is not None:
        expected["bins"] = [int(number) for number in frame.bins]
    if frame.acquired_ns is not None:
        expected["acquired_ns"] = frame.acquired_ns
    assert json.loads(text) == expected
    # NaN has many bit patterns, and a detour over Python's float may change it.
    same = np.frombuffer(values, frame.data.dtype.newbyteorder("<")).reshape(frame.data.shape)
    assert same.tobytes() == frame.data.astype(frame.data.dtype.newbyteorder("<")).tobytes()
    if np.isfinite(frame.data).all():
        assert values == struct_bytes(frame.data)
    decode_frame([text, values])  # whatever is encoded can be read


@given(frames())
def test_decoded_frame_is_the_encoded_one(frame: RawFrame) -> None:
    header = {
        "acquired_ns": frame.acquired_ns,
        "shape": list(frame.data.shape),
        "sequence": frame.sequence,
        "_remark": "free",
        "bins": None if frame.bins is None else frame.bins.tolist(),
        "dtype": frame.data.dtype.name,
        "version": 1,
        "background": frame.is_background,
        "stream": frame.stream,
        "kind": "deq-mpi-frame",
    }
    given_keys = {key: value for key, value in header.items() if value is not None}
    values = frame.data.astype(frame.data.dtype.newbyteorder("<")).tobytes()
    found = decode_frame([json.dumps(given_keys, indent=1, ensure_ascii=False).encode(), values])
    assert found.data.dtype == frame.data.dtype.newbyteorder("<")
    assert found.data.shape == frame.data.shape
    assert found.data.tobytes() == values
    for name in ("sequence", "stream", "is_background", "acquired_ns"):
        assert getattr(found, name) == getattr(frame, name)
        assert type(getattr(found, name)) is type(getattr(frame, name))
    if frame.bins is None:
        assert found.bins is None
    else:
        assert found.bins.dtype == np.int64
        np.testing.assert_array_equal(found.bins, frame.bins)


def test_arrays_of_any_layout_and_numbers_of_numpy_are_encoded() -> None:
    data = np.arange(24, dtype=np.int16).reshape(4, 3, 2).T
    found = decode_frame(
        encode_frame(RawFrame(np.int64(3), data, is_background=np.bool_(True), acquired_ns=np.uint64(5)))
    )
    np.testing.assert_array_equal(found.data, data)
    assert (found.sequence, found.is_background, found.acquired_ns) == (3, True, 5)


def test_the_valid_message_is_valid() -> None:
    frame = decode_frame([changed(), VALUES])
    np.testing.assert_array_equal(frame.data, np.array([[[1 + 2j, 3 + 4j]]], np.complex64))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_parts_may_be_any_buffer_and_data_are_a_read_only_view(kind: type) -> None:
    values = bytearray(VALUES)
    frame = decode_frame([kind(changed()), kind(values) if kind is not bytearray else values])
    assert not frame.data.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        frame.data[...] = 0
    with pytest.raises(ValueError, match="WRITEABLE"):
        frame.data.flags.writeable = True
    if kind is bytearray:
        assert np.shares_memory(frame.data, np.frombuffer(values, np.uint8))


CHANGES = [
    ("kind", {"kind": "deq-mpi-image"}),
    ("kind", {"kind": ...}),
    ("kind", {"kind": ["deq-mpi-frame"]}),
    ("version", {"version": 2}),
    ("version", {"version": True}),
    ("version", {"version": 1.0}),
    ("version", {"version": "1"}),
    ("version", {"version": ...}),
    *(("key", {key: ...}) for key in ("stream", "sequence", "background", "dtype", "shape")),
    ("key", {"Sequence": 3}),
    ("header", {"\ud800": 3}),
    ("value", {"sequence": -1}),
    ("value", {"sequence": 2**63}),
    ("value", {"sequence": 10**4000}),
    ("value", {"sequence": True}),
    ("value", {"sequence": 1.0}),
    ("value", {"sequence": "1"}),
    ("value", {"sequence": None}),
    ("value", {"sequence": []}),
    ("value", {"background": 0}),
    ("value", {"background": "false"}),
    ("value", {"stream": 5}),
    ("value", {"stream": None}),
    ("value", {"stream": "x" * 65}),
    ("value", {"stream": "two\nlines"}),
    ("value", {"stream": "\x1b[2J"}),
    ("value", {"stream": "\u202egnirts"}),
    ("value", {"dtype": 5}),
    ("value", {"acquired_ns": -1}),
    ("value", {"acquired_ns": None}),
    ("value", {"acquired_ns": 1.5e18}),
    ("value", {"shape": 2}),
    ("value", {"shape": "112"}),
    ("value", {"shape": {"0": 1}}),
    ("value", {"shape": [1, 0, 2]}),
    ("value", {"shape": [1, -1, -2]}),
    ("value", {"shape": [1, True, 2]}),
    ("value", {"shape": [1, 1.0, 2]}),
    ("value", {"shape": [2**63, 1, 2]}),
    ("value", {"bins": 3}),
    ("value", {"bins": [3, 3]}),
    ("value", {"bins": [5, 3]}),
    ("value", {"bins": [-1, 3]}),
    ("value", {"bins": [True, 3]}),
    ("value", {"bins": None}),
    ("dtype", {"dtype": "complex256"}),
    ("dtype", {"dtype": "object"}),
    ("dtype", {"dtype": "c8"}),
    ("dtype", {"dtype": "<c8"}),
    ("dtype", {"dtype": ""}),
    ("shape", {"shape": []}),
    ("shape", {"shape": [1, 2]}),
    ("shape", {"shape": [1, 1, 1, 2]}),
    ("shape", {"bins": []}),
    ("shape", {"bins": [3]}),
    ("shape", {"bins": [3, 5, 7]}),
    ("shape", {"dtype": "float64"}),  # bins of time signals
    ("size", {"shape": [1, 1, 3]}),
    ("size", {"shape": [2**31, 2**31, 2]}),  # 2^64 values: 0 in 64 bits
    ("size", {"shape": [2**62, 2**62, 2**62]}),
    ("size", {"dtype": "complex128"}),
]


@pytest.mark.parametrize(("reason", "changes"), CHANGES, ids=[str(entry)[:60] for entry in CHANGES])
def test_wrong_header_is_refused(reason: str, changes: dict[str, Any]) -> None:
    assert refusal([changed(**changes), VALUES]).reason == reason


TEXTS = {
    "empty": b"",
    "no JSON": b"frame",
    "cut off": changed()[:-1],
    "more behind": changed() + b"{}",
    "no object": b"[]",
    "number": b"7",
    "null": b"null",
    "key twice": changed()[:-1] + b', "sequence": 13}',
    "key twice inside": changed()[:-1] + b', "_a": {"b": 1, "b": 1}}',
    "NaN": changed()[:-1] + b', "_a": NaN}',
    "infinity": changed()[:-1] + b', "_a": -Infinity}',
    "number beyond float64": changed()[:-1] + b', "_a": 1e999}',
    "number of 5000 digits": changed()[:-1] + b', "_a": ' + b"9" * 5000 + b"}",
    "not UTF-8": changed(stream="\u00e9").replace(b"\\u00e9", b"\xe9"),
    "half a surrogate": changed()[:-1] + b', "_a": "\\ud800"}',
    "half a surrogate in bytes": changed()[:-1] + b', "_a": "\xed\xa0\x80"}',
    "UTF-16": changed().decode().encode("utf-16"),
    "UTF-16 without mark": changed().decode().encode("utf-16-le"),
    "UTF-32": changed().decode().encode("utf-32-be"),
    "byte order mark": b"\xef\xbb\xbf" + changed(),
    "control character": changed()[:-1] + b', "_a": "\n"}',
    "deep": changed()[:-1] + b', "_a": ' + b"[" * 20000 + b"]" * 20000 + b"}",
    "deep objects": b'{"a":' * 10000 + b"1" + b"}" * 10000,
    "deep and unclosed": b"[" * MAX_HEADER,
    "too many brackets": changed(_a=[[]] * MAX_BRACKETS),
    "too long": changed(_a="x" * MAX_HEADER),
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_text_that_is_no_clear_json_is_refused(text: bytes) -> None:
    assert refusal([text, VALUES]).reason == "header"


def test_header_may_be_as_long_as_stated() -> None:
    room = MAX_HEADER - len(changed(_a=""))
    assert decode_frame([changed(_a="x" * room), VALUES]).sequence == 12
    assert refusal([changed(_a="x" * (room + 1)), VALUES]).reason == "header"


def test_depth_below_the_bound_is_read_even_far_down_the_stack() -> None:
    text = changed()[:-1] + b', "_a": ' + b"[" * (MAX_BRACKETS - 3) + b"]" * (MAX_BRACKETS - 3) + b"}"

    def deeper(levels: int) -> bool:
        if levels:
            return deeper(levels - 1)
        try:
            return decode_frame([text, VALUES]).sequence == 12
        except MessageError as error:  # too little stack left to parse it
            return error.reason == "header"

    assert deeper(0)
    assert deeper(650)


@pytest.mark.parametrize(
    "parts",
    [[], [changed()], [changed(), VALUES, b""], ["text", VALUES], [changed(), None], [changed(), 5]],
    ids=lambda parts: f"{len(parts)}",
)
def test_wrong_parts_are_refused(parts: list[Any]) -> None:
    assert refusal(parts).reason == "parts"


@pytest.mark.parametrize("length", [0, 15, 17, 32])
def test_wrong_number_of_bytes_is_refused(length: int) -> None:
    assert refusal([changed(), bytes(length)]).reason == "size"


def test_memory_of_values_is_not_allocated() -> None:
    shape = [60, 1, 100_000]
    values = bytes(8 * math.prod(shape))
    text = changed(shape=shape, bins=...)
    lying = changed(shape=[2**40, 2**20, 4], bins=...)
    worst = [b'{"_":[' + b"0.1," * (MAX_HEADER // 4 - 4) + b"1]}", b'{"_":[' + b"{}," * 100 + b"1]}", lying]
    tracemalloc.start()
    try:
        frame = decode_frame([text, values])
        assert tracemalloc.get_traced_memory()[1] < 100_000  # the values are 48 million bytes
        for header in worst:
            tracemalloc.reset_peak()
            refusal([header, VALUES])
            assert tracemalloc.get_traced_memory()[1] < HEADER_MEMORY
    finally:
        tracemalloc.stop()
    assert frame.data.nbytes == len(values)


@pytest.mark.parametrize(
    ("reason", "frame"),
    [
        ("dtype", RawFrame(0, np.zeros((1, 1, 2), np.float16))),
        ("dtype", RawFrame(0, np.zeros((1, 1, 2), object))),
        ("value", RawFrame(0, np.zeros((1, 1, 2), np.complex64), stream=b"x")),
        ("header", RawFrame(0, np.zeros((1, 1, 20000), np.complex64), bins=np.arange(20000))),
    ],
)
def test_frame_that_no_message_can_hold_is_not_encoded(reason: str, frame: RawFrame) -> None:
    with pytest.raises(MessageError) as caught:
        encode_frame(frame)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("reason", "frame"),
    [
        ("shape", RawFrame(0, np.zeros((1, 2), np.float32))),
        ("value", RawFrame(0, np.zeros((1, 0, 2), np.float32))),
        ("value", RawFrame(-1, np.zeros((1, 1, 2), np.float32))),
        ("value", RawFrame(0, np.zeros((1, 1, 2), np.float32), stream="x" * 65)),
        ("value", RawFrame(0, np.zeros((1, 1, 2), np.complex64), bins=np.array([3, 2]))),
        ("shape", RawFrame(0, np.zeros((1, 1, 2), np.complex64), bins=np.array([3]))),
        ("value", RawFrame("0", np.zeros((1, 1, 2), np.complex64))),
    ],
)
def test_wrong_frame_is_refused_where_it_arrives(reason: str, frame: RawFrame) -> None:
    assert refusal(encode_frame(frame)).reason == reason


GRID = Grid((4, 3, 1), (0.04, 0.03, 0.01), (0.0, 0.001, 0.0))


def live_image(*, interval: bool = False, snr_db: float | None = 21.5) -> LiveImage:
    image = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    frame = FrameReport(
        method="deq",
        result=Result.CONVERGED,
        iterations=3,
        residuals=(0.1, 0.01, 1e-5),
        restarts=0,
        residual_over_epsilon=0.97,
        sigma=1.0,
        snr_db=snr_db,
        weights={"beta": 0.5},
        weights_clamped=False,
        interval_coverage=0.9 if interval else None,
        interval_clamped=False,
        intensity=2.0,
        milliseconds=12.5,
    )
    report = LiveReport(
        sequence=8,
        first_sequence=7,
        n_frames=2,
        stream="run 7",
        acquired_ns=None,
        received_ns=1764000000000000000,
        finished_ns=1764000000020000000,
        waited_ms=1.5,
        latency_ms=20.0,
        flags=(Flag.AVERAGED, Flag.GAP),
        saturated_channels=(1,),
        residual_ratio=0.9,
        frame=frame,
    )
    bounds = Interval(image - 0.5, image + 0.5, 0.9, False) if interval else None
    return LiveImage(image, bounds, GRID, BackgroundState(5, 1.5, 1.01, 0.2), report)


@pytest.mark.parametrize("interval", [False, True])
def test_encoded_image_is_what_the_page_describes(interval: bool) -> None:
    counters = Counters(frames_in=3, images_out=1, averaged=1, in_flight=1, dropped={"duplicate": 0})
    topic, text, *values = encode_image(live_image(interval=interval), counters)
    assert topic == b"image"
    header = json.loads(text)
    assert header["kind"] == "deq-mpi-image"
    assert (header["version"], header["dtype"], header["shape"]) == (1, "float32", [1, 3, 4])
    assert header["arrays"] == (["image", "low", "high"] if interval else ["image"])
    assert header["grid"] == {
        "size": [4, 3, 1],
        "field_of_view": [0.04, 0.03, 0.01],
        "center": [0.0, 0.001, 0.0],
    }
    assert header["interval_coverage"] == (0.9 if interval else None)
    assert header["report"]["flags"] == ["averaged", "gap"]
    assert header["report"]["result"] == "converged"
    assert (header["report"]["sequence"], header["report"]["first_sequence"]) == (8, 7)
    assert header["background"] == {"n_frames": 5, "age_s": 1.5, "sigma": 1.01, "drift": 0.2}
    assert header["counters"]["frames_in"] == 3
    shifts = (0.0, -0.5, 0.5) if interval else (0.0,)
    assert values == [struct.pack("<12f", *(k + shift for k in range(12))) for shift in shifts]


@pytest.mark.parametrize("interval", [False, True])
def test_decoded_image_is_the_encoded_one(interval: bool) -> None:
    image = live_image(interval=interval)
    found = decode_image(encode_image(image, Counters()))
    np.testing.assert_array_equal(found.image, image.image)
    assert not found.image.flags.writeable
    assert (found.low is not None, found.high is not None) == (interval, interval)
    if interval:
        np.testing.assert_array_equal(found.low, image.image - 0.5)
        np.testing.assert_array_equal(found.high, image.image + 0.5)
    assert found.header["report"]["residuals"] == [0.1, 0.01, 1e-5]


def image_parts(**changes: Any) -> list[bytes]:
    topic, text, *values = encode_image(live_image(), Counters())
    header = {key: value for key, value in (json.loads(text) | changes).items() if value is not ...}
    return [topic, json.dumps(header).encode(), *values]


@pytest.mark.parametrize(
    ("reason", "parts"),
    [
        ("parts", []),
        ("parts", image_parts()[:2]),
        ("parts", [b"status", *image_parts()[1:]]),
        ("parts", [*image_parts(), b""]),
        ("parts", [*image_parts(), b"", b""]),
        ("parts", image_parts(arrays=["image", "low"])),
        ("parts", image_parts(arrays={"image": 1})),
        ("parts", image_parts(arrays=["image", "low", "high"])),
        ("kind", image_parts(kind="deq-mpi-frame")),
        ("version", image_parts(version=0)),
        ("key", image_parts(extra=1)),
        ("key", image_parts(grid=...)),
        ("dtype", image_parts(dtype="float64")),
        ("shape", image_parts(shape=[3, 4])),
        ("shape", image_parts(shape=[4, 3, 1])),
        ("shape", image_parts(grid={})),
        ("value", image_parts(shape=[1, 3, 0])),
        ("value", image_parts(grid=[4, 3, 1])),
        ("value", image_parts(report=None)),
        ("value", image_parts(counters=[])),
        ("size", [*image_parts()[:2], bytes(47)]),
        ("value", [*image_parts()[:2], struct.pack("<12f", *[math.nan] * 12)]),
        ("value", [*image_parts()[:2], struct.pack("<12f", *[math.inf] * 12)]),
    ],
)
def test_wrong_image_message_is_refused(reason: str, parts: list[bytes]) -> None:
    with pytest.raises(MessageError) as caught:
        decode_image(parts)
    assert caught.value.reason == reason


def test_image_with_a_number_that_json_cannot_hold_is_not_encoded() -> None:
    with pytest.raises(MessageError, match="cannot be written") as caught:
        encode_image(live_image(snr_db=math.inf), Counters())
    assert caught.value.reason == "value"


def test_status() -> None:
    status = {"state": "running", "policy": "latest", "swap": None}
    topic, text = encode_status(status)
    assert topic == b"status"
    assert json.loads(text) == status | {"kind": "deq-mpi-status", "version": 1}
    assert decode_status([topic, text]) == json.loads(text)


@pytest.mark.parametrize(
    ("reason", "parts"),
    [
        ("parts", [b"status"]),
        ("parts", [b"image", encode_status({})[1]]),
        ("parts", [*encode_status({}), b""]),
        ("kind", [b"status", changed()]),
        ("header", [b"status", b'{"a": NaN}']),
    ],
)
def test_wrong_status_is_refused(reason: str, parts: list[bytes]) -> None:
    with pytest.raises(MessageError) as caught:
        decode_status(parts)
    assert caught.value.reason == reason


def test_status_cannot_pretend_to_be_another_message() -> None:
    assert json.loads(encode_status({"kind": "x", "version": 9})[1]) == {
        "kind": "deq-mpi-status",
        "version": messages.VERSION,
    }
