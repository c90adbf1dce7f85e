"""The messages on the wire: frames into the service, images and its state out of it (docs/protocol.md).

A message is a small JSON header and the bytes of its arrays, each a part of one multi-part message. Nothing
in a message is executed, loaded or used as a path.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import MessageError
from engine.live.counters import Counters
from engine.live.live_image import LiveImage
from engine.live.raw_frame import RawFrame

VERSION = 1
"""Version of all headers; a receiver refuses any other."""

FRAME_KIND, IMAGE_KIND, STATUS_KIND = "deq-mpi-frame", "deq-mpi-image", "deq-mpi-status"

IMAGE_TOPIC, STATUS_TOPIC = b"image", b"status"
"""First part of what the service publishes, to subscribe to."""

MAX_HEADER = 65536
"""Bytes of a header: a list of some thousand bins."""

MAX_INTEGER = 2**63 - 1

MAX_STREAM = 64
"""Characters of the name of a stream."""

FRAME_TYPES = ("complex64", "complex128", "float32", "float64", "int16", "int32")
"""Types of the values of a frame; little-endian, complex values as real and imaginary part in turn."""


@dataclass(frozen=True, eq=False)
class ImageMessage:
    """What a subscriber gets for an image.

    Attributes
    ----------
    image : ndarray of float32, shape (Nz, Ny, Nx)
        Concentrations.
    low, high : ndarray of float32, shape (Nz, Ny, Nx), or None
        Bounds of the true concentrations.
    header : dict
        `grid` (size, field_of_view, center), `report`, `background`, `counters`, `interval_coverage`.
    """

    image: NDArray[np.float32]
    low: NDArray[np.float32] | None
    high: NDArray[np.float32] | None
    header: Mapping[str, Any]


def encode_frame(frame: RawFrame) -> list[bytes]:
    """Return the two parts of a frame's message.

    Raises
    ------
    MessageError
        If the values are of a type that is not among `FRAME_TYPES`.
    """
    data = np.ascontiguousarray(frame.data)
    if data.dtype.name not in FRAME_TYPES:
        raise MessageError(
            "dtype", f"the frame holds {data.dtype}; expected one of {', '.join(FRAME_TYPES)}; convert it"
        )
    header: dict[str, Any] = {
        "kind": FRAME_KIND,
        "version": VERSION,
        "stream": frame.stream,
        "sequence": frame.sequence,
        "background": frame.is_background,
        "dtype": data.dtype.name,
        "shape": list(data.shape),
    }
    if frame.bins is not None:
        header["bins"] = frame.bins.tolist()
    if frame.acquired_ns is not None:
        header["acquired_ns"] = frame.acquired_ns
    return [_to_json(header), data.astype(data.dtype.newbyteorder("<"), copy=False).tobytes()]


def decode_frame(parts: Sequence[bytes]) -> RawFrame:
    """Read a frame's message.

    Parameters
    ----------
    parts : sequence of bytes
        Of the multi-part message.

    Returns
    -------
    RawFrame
        Its data share memory with the last part.

    Raises
    ------
    MessageError
        If a rule of the format is broken; `reason` is one of "parts", "header", "kind", "version", "key",
        "value", "dtype", "shape", "size".
    """
    if len(parts) != 2:
        raise MessageError("parts", f"the message has {len(parts)} parts; expected a header and the values")
    header = _Header(parts[0], FRAME_KIND, _FRAME_KEYS, _FRAME_OPTIONAL)
    dtype = header.text("dtype")
    if dtype not in FRAME_TYPES:
        raise MessageError("dtype", f"dtype is {dtype!r:.40}; expected one of {', '.join(FRAME_TYPES)}")
    shape = header.integers("shape", minimum=1)
    if len(shape) != 3:
        raise MessageError("shape", f"shape has {len(shape)} lengths; expected (J, C, K) or (J, C, V)")
    data = _array(parts[1], dtype, shape)
    bins = header.integers("bins", minimum=0) if "bins" in header.values else None
    if bins is not None:
        if data.dtype.kind != "c" or len(bins) != shape[2]:
            raise MessageError(
                "shape", f"{len(bins)} bins with values of shape {shape}; expected one per column of spectra"
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
    """Return the parts of an image's message: topic, header, image and, with intervals, low and high."""
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
    return [IMAGE_TOPIC, _to_json(header), *(array.astype("<f4", copy=False).tobytes() for array in arrays)]


def decode_image(parts: Sequence[bytes]) -> ImageMessage:
    """Read an image's message.

    Raises
    ------
    MessageError
        As `decode_frame`; also if a value of the image is not finite.
    """
    if len(parts) < 3 or parts[0] != IMAGE_TOPIC:
        raise MessageError(
            "parts", f"the message has {len(parts)} parts; expected the topic image, a header and arrays"
        )
    header = _Header(parts[1], IMAGE_KIND, _IMAGE_KEYS, frozenset())
    shape = header.integers("shape", minimum=1)
    names = header.values["arrays"]
    if names not in (["image"], ["image", "low", "high"]) or len(parts) != 2 + len(names) or len(shape) != 3:
        raise MessageError(
            "parts", "arrays and parts do not fit; expected an image (Nz, Ny, Nx), or image, low and high"
        )
    if header.text("dtype") != "float32":
        raise MessageError("dtype", "dtype is not float32; expected float32 images")
    image, *bounds = (_array(part, "float32", shape) for part in parts[2:])
    if not np.isfinite(image).all():
        raise MessageError("value", "the image holds NaN or infinity; expected finite values")
    low, high = bounds or (None, None)
    return ImageMessage(image, low, high, header.values)


def encode_status(status: Mapping[str, Any]) -> list[bytes]:
    """Return the parts of a message about the state of the service: topic and header."""
    return [STATUS_TOPIC, _to_json({"kind": STATUS_KIND, "version": VERSION, **status})]


def decode_status(parts: Sequence[bytes]) -> Mapping[str, Any]:
    """Read a message about the state of the service; `MessageError` as `decode_frame`."""
    if len(parts) != 2 or parts[0] != STATUS_TOPIC:
        raise MessageError("parts", f"the message has {len(parts)} parts; expected a topic and a header")
    return _Header(parts[1], STATUS_KIND, None, frozenset()).values


_FRAME_KEYS = frozenset({"kind", "version", "stream", "sequence", "background", "dtype", "shape"})
_FRAME_OPTIONAL = frozenset({"bins", "acquired_ns"})
_IMAGE_KEYS = frozenset(
    {"kind", "version", "dtype", "shape", "arrays", "grid", "interval_coverage", "report", "background"}
    | {"counters"}
)


class _Header:
    """A JSON object of the right kind and version whose keys are known; keys with an underscore are free."""

    def __init__(self, text: bytes, kind: str, keys: frozenset[str] | None, optional: frozenset[str]) -> None:
        self.values = _from_json(text)
        if self.values.get("kind") != kind:
            raise MessageError("kind", f"kind is {self.values.get('kind')!r:.40}; expected {kind!r}")
        if type(self.values.get("version")) is not int or self.values["version"] != VERSION:
            raise MessageError(
                "version", f"version is {self.values.get('version')!r:.40}; expected {VERSION}"
            )
        if keys is None:
            return
        given = {key for key in self.values if not key.startswith("_")}
        if given - keys - optional or keys - given:
            wrong = sorted(given - keys - optional) or sorted(keys - given)
            what = "unknown" if given - keys - optional else "missing"
            raise MessageError("key", f"{what} key {wrong[0]!r:.60}; expected {', '.join(sorted(keys))}")

    def integer(self, key: str, minimum: int = 0) -> int:
        return _integer(key, self.values[key], minimum)

    def integers(self, key: str, minimum: int) -> list[int]:
        found = self.values[key]
        if not isinstance(found, list):
            raise MessageError("value", f"{key} is {found!r:.40}; expected a list of integers")
        return [_integer(key, value, minimum) for value in found]

    def text(self, key: str) -> str:
        if not isinstance(self.values[key], str):
            raise MessageError("value", f"{key} is {self.values[key]!r:.40}; expected a text")
        return str(self.values[key])

    def stream(self) -> str:
        name = self.text("stream")
        if len(name) > MAX_STREAM or not name.isprintable():
            raise MessageError(
                "value", f"stream is {name!r:.40}; expected up to {MAX_STREAM} printable characters"
            )
        return name

    def flag(self, key: str) -> bool:
        if not isinstance(self.values[key], bool):
            raise MessageError("value", f"{key} is {self.values[key]!r:.40}; expected true or false")
        return bool(self.values[key])


def _integer(key: str, value: object, minimum: int) -> int:
    if type(value) is not int or not minimum <= value <= MAX_INTEGER:
        raise MessageError(
            "value", f"{key} holds {value!r:.40}; expected integers from {minimum} to {MAX_INTEGER}"
        )
    return value


def _array(part: bytes, dtype: str, shape: Sequence[int]) -> NDArray[Any]:
    element = np.dtype(dtype).newbyteorder("<")
    expected = math.prod(shape) * element.itemsize
    if len(part) != expected:
        raise MessageError(
            "size", f"the values have {len(part)} bytes; expected {expected} of shape {shape!r:.60}, {dtype}"
        )
    return np.frombuffer(part, element).reshape(shape)


def _to_json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, allow_nan=False, separators=(",", ":")).encode()


def _from_json(text: bytes) -> dict[str, Any]:
    if len(text) > MAX_HEADER:
        raise MessageError("header", f"the header has {len(text)} bytes; expected at most {MAX_HEADER}")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:  # also text that is not UTF-8
        raise MessageError("header", f"the header is no JSON ({error}); expected an object") from error
    if not isinstance(found, dict):
        raise MessageError("header", f"the header is a {type(found).__name__}; expected a JSON object")
    return found
