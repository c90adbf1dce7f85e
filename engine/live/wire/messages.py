"""The messages on the wire: frames into the service, images and its state out of it (docs/protocol.md).

A message is a small JSON header and the bytes of its arrays, each a part of one multi-part message. Nothing
in a message is executed, loaded or used as a path.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import MessageError
from engine.live.loop.counters import Counters
from engine.live.loop.live_image import LiveImage
from engine.live.wire.strict_json import read_object, shown, write_object
from engine.measurement.raw_frame import RawFrame

VERSION = 1
"""Version of all headers; a receiver refuses any other."""

FRAME_KIND, IMAGE_KIND, STATUS_KIND = "deq-mpi-frame", "deq-mpi-image", "deq-mpi-status"

IMAGE_TOPIC, STATUS_TOPIC = b"image", b"status"
"""First part of what the service publishes, to subscribe to."""

REASONS = ("parts", "header", "kind", "version", "key", "value", "dtype", "shape", "size")
"""Reasons why a message is refused: every `MessageError` of this module has one of these."""

Part = bytes | bytearray | memoryview
"""One part of a multi-part message."""

MAX_INTEGER = 2**63 - 1

MAX_STREAM = 64
"""Most characters of the name of a stream."""

FRAME_TYPES = ("complex64", "complex128", "float32", "float64", "int16", "int32")
"""Types of the values of a frame; little-endian, complex values as real and imaginary part in turn."""


@dataclass(frozen=True, eq=False)
class ImageMessage:
    """Message that a subscriber gets for an image.

    Attributes
    ----------
    image : ndarray of float32, shape (Nz, Ny, Nx)
        Concentrations.
    low, high : ndarray of float32, shape (Nz, Ny, Nx), or None
        Bounds of the true concentrations.
    header : dict
        Header: `grid` (size, field_of_view, center), `report`, `background`, `counters`, `interval_coverage`.
    """

    image: NDArray[np.float32]
    low: NDArray[np.float32] | None
    high: NDArray[np.float32] | None
    header: Mapping[str, Any]


def encode_frame(frame: RawFrame) -> list[bytes]:
    """Return the two parts of a frame's message.

    What else is wrong with a frame is for `decode_frame` to say, where it arrives.

    Raises
    ------
    MessageError
        "dtype" if the type is not among `FRAME_TYPES`; "value" or "header" if the header cannot be written.
    """
    data = np.asarray(frame.data)
    _require_frame_type(data.dtype.name)
    header: dict[str, Any] = {
        "kind": FRAME_KIND,
        "version": VERSION,
        "stream": frame.stream,
        "sequence": _plain(frame.sequence),
        "background": bool(frame.is_background),
        "dtype": data.dtype.name,
        "shape": list(data.shape),
    }
    if frame.bins is not None:
        header["bins"] = np.asarray(frame.bins).tolist()
    if frame.acquired_ns is not None:
        header["acquired_ns"] = _plain(frame.acquired_ns)
    return [write_object(header), data.astype(data.dtype.newbyteorder("<"), copy=False).tobytes()]


def decode_frame(parts: Sequence[Part]) -> RawFrame:
    """Read a frame's message.

    Nothing of the size of the values is allocated.

    Parameters
    ----------
    parts : sequence of bytes
        Parts of the multi-part message.

    Returns
    -------
    RawFrame
        Frame whose data are a read-only view of the last part. They may hold NaN or infinity.

    Raises
    ------
    MessageError
        If a rule of the format is broken; `reason` is one of `REASONS`.
    """
    if len(parts) != 2:
        raise MessageError("parts", f"the message has {len(parts)} parts; expected a header and the values")
    text, values = (_bytes_of(part) for part in parts)
    header = _Header(text, FRAME_KIND, _FRAME_KEYS, _FRAME_OPTIONAL)
    dtype = header.text("dtype")
    _require_frame_type(dtype)
    shape = header.integers("shape", minimum=1)
    if len(shape) != 3:
        raise MessageError("shape", f"shape has {len(shape)} lengths; expected (J, C, K) or (J, C, V)")
    data = _array(values, dtype, shape)
    bins = header.integers("bins", minimum=0) if "bins" in header.values else None
    if bins is not None:
        if data.dtype.kind != "c" or len(bins) != shape[2]:
            raise MessageError(
                "shape",
                f"{len(bins)} bins with {dtype} values of shape {shape}; expected one per column of spectra",
            )
        if any(later <= earlier for earlier, later in pairwise(bins)):
            raise MessageError("value", "bins do not increase; expected increasing bins of the full axis")
    return RawFrame(
        sequence=header.integer("sequence"),
        data=data,
        stream=header.stream(),
        is_background=header.flag("background"),
        bins=None if bins is None else np.array(bins, np.int64),
        acquired_ns=header.integer("acquired_ns") if "acquired_ns" in header.values else None,
    )


def encode_image(image: LiveImage, counters: Counters) -> list[bytes]:
    """Return the parts of an image's message: topic, header, image and, with intervals, low and high.

    Raises
    ------
    MessageError
        "value" if a value of the report or the counts is nothing that JSON can hold, NaN and infinity
        included; "header" if the header is too long.
    """
    arrays = [image.image]
    if image.interval is not None:
        arrays += [image.interval.low, image.interval.high]
    header = {
        "kind": IMAGE_KIND,
        "version": VERSION,
        "dtype": "float32",
        "shape": list(image.image.shape),
        "arrays": ["image", "low", "high"][: len(arrays)],
        "grid": {
            "size": list(image.grid.size),
            "field_of_view": list(image.grid.field_of_view),
            "center": list(image.grid.center),
        },
        "interval_coverage": None if image.interval is None else image.interval.coverage,
        "report": image.report.to_dict(),
        "background": image.background.to_dict(),
        "counters": counters.to_dict(),
    }
    values = (array.astype("<f4", copy=False).tobytes() for array in arrays)
    return [IMAGE_TOPIC, write_object(header), *values]


def decode_image(parts: Sequence[Part]) -> ImageMessage:
    """Read an image's message.

    Returns
    -------
    ImageMessage
        Message whose arrays are read-only views of the parts, and finite.

    Raises
    ------
    MessageError
        If a rule of the format is broken; `reason` is one of `REASONS`.
    """
    if len(parts) not in (3, 5) or _bytes_of(parts[0]) != IMAGE_TOPIC:
        raise MessageError(
            "parts",
            f"the message has {len(parts)} parts; expected the topic image, a header and one or three arrays",
        )
    header = _Header(_bytes_of(parts[1]), IMAGE_KIND, _IMAGE_KEYS, frozenset())
    names = header.values["arrays"]
    if names not in (["image"], ["image", "low", "high"]) or len(parts) != 2 + len(names):
        raise MessageError("parts", "arrays and parts do not fit; expected image, or image, low and high")
    if header.text("dtype") != "float32":
        raise MessageError("dtype", f"dtype is {shown(header.values['dtype'])}; expected float32")
    shape = header.integers("shape", minimum=1)
    if len(shape) != 3 or header.object("grid").get("size") != shape[::-1]:
        raise MessageError("shape", "the shape is not that of the grid; expected (Nz, Ny, Nx) of its size")
    for key in ("report", "background", "counters"):
        header.object(key)
    image, *bounds = (_array(_bytes_of(part), "float32", shape) for part in parts[2:])
    if not all(np.isfinite(array).all() for array in (image, *bounds)):
        raise MessageError("value", "an array holds NaN or infinity; expected finite values")
    low, high = bounds or (None, None)
    return ImageMessage(image, low, high, header.values)


def encode_status(status: Mapping[str, Any]) -> list[bytes]:
    """Return the parts of a message about the state of the service: topic and header.

    Raises
    ------
    MessageError
        If a value is nothing that JSON can hold, NaN and infinity included.
    """
    return [STATUS_TOPIC, write_object({**status, "kind": STATUS_KIND, "version": VERSION})]


def decode_status(parts: Sequence[Part]) -> Mapping[str, Any]:
    """Read a message about the state of the service; `MessageError` as `decode_frame`."""
    if len(parts) != 2 or _bytes_of(parts[0]) != STATUS_TOPIC:
        raise MessageError("parts", f"the message has {len(parts)} parts; expected a topic and a header")
    return _Header(_bytes_of(parts[1]), STATUS_KIND, None, frozenset()).values


_FRAME_KEYS = frozenset({"kind", "version", "stream", "sequence", "background", "dtype", "shape"})
_FRAME_OPTIONAL = frozenset({"bins", "acquired_ns"})
_IMAGE_KEYS = frozenset(
    {"kind", "version", "dtype", "shape", "arrays", "grid", "interval_coverage", "report", "background"}
    | {"counters"}
)


class _Header:
    """A JSON object of the right kind and version whose keys are known; keys with an underscore are free."""

    def __init__(
        self, data: memoryview, kind: str, keys: frozenset[str] | None, optional: frozenset[str]
    ) -> None:
        self.values = read_object(data)
        found_kind, version = self.values.get("kind"), self.values.get("version")
        if found_kind != kind:
            raise MessageError("kind", f"kind is {shown(found_kind)}; expected {kind!r}")
        if type(version) is not int or version != VERSION:
            raise MessageError("version", f"version is {shown(version)}; expected {VERSION}")
        if keys is None:
            return
        given = {key for key in self.values if not key.startswith("_")}
        unknown, missing = given - keys - optional, keys - given
        if unknown or missing:
            what, which = ("unknown", unknown) if unknown else ("missing", missing)
            raise MessageError(
                "key", f"{what} key {shown(min(which))}; expected {', '.join(sorted(keys | optional))}"
            )

    def integer(self, key: str, minimum: int = 0) -> int:
        return _integer(key, self.values[key], minimum)

    def integers(self, key: str, minimum: int) -> list[int]:
        found = self.values[key]
        if not isinstance(found, list):
            raise MessageError("value", f"{key} is {shown(found)}; expected a list of integers")
        return [_integer(key, value, minimum) for value in found]

    def text(self, key: str) -> str:
        found = self.values[key]
        if not isinstance(found, str):
            raise MessageError("value", f"{key} is {shown(found)}; expected a text")
        return found

    def stream(self) -> str:
        name = self.text("stream")
        if len(name) > MAX_STREAM or not name.isprintable():
            raise MessageError(
                "value", f"stream is {shown(name)}; expected up to {MAX_STREAM} printable characters"
            )
        return name

    def flag(self, key: str) -> bool:
        found = self.values[key]
        if not isinstance(found, bool):
            raise MessageError("value", f"{key} is {shown(found)}; expected true or false")
        return found

    def object(self, key: str) -> Mapping[str, Any]:
        found = self.values[key]
        if not isinstance(found, dict):
            raise MessageError("value", f"{key} is {shown(found)}; expected a JSON object")
        return found


def _require_frame_type(name: str) -> None:
    if name not in FRAME_TYPES:
        raise MessageError("dtype", f"dtype is {shown(name)}; expected one of {', '.join(FRAME_TYPES)}")


def _integer(key: str, value: object, minimum: int) -> int:
    # Not isinstance: true is an int to Python, and 1.0 may stand for 1.4 with too few digits.
    if type(value) is not int or not minimum <= value <= MAX_INTEGER:
        raise MessageError(
            "value", f"{key} holds {shown(value)}; expected integers from {minimum} to {MAX_INTEGER}"
        )
    return value


def _array(data: memoryview, dtype: str, shape: Sequence[int]) -> NDArray[Any]:
    element = np.dtype(dtype).newbyteorder("<")
    expected = math.prod(shape) * element.itemsize  # of Python's integers, which do not overflow
    if len(data) != expected:
        raise MessageError(
            "size", f"the values have {len(data)} bytes; expected {expected} of shape {shape}, {dtype}"
        )
    return np.frombuffer(data, element).reshape(shape)


def _bytes_of(part: object) -> memoryview:
    try:
        return memoryview(part).cast("B").toreadonly()  # type: ignore[arg-type]  # anything else is refused
    except (TypeError, ValueError) as error:  # no buffer, or one that is not contiguous
        raise MessageError("parts", f"a part is a {type(part).__name__}; expected bytes") from error


def _plain(number: Any) -> Any:
    """Return a number of numpy as one that JSON can hold."""
    return number.item() if isinstance(number, np.generic) else number
