"""JSON objects of strangers: what is read is plain, finite, unambiguous and of bounded size."""

import json
import math
from collections.abc import Mapping
from typing import Any

from engine.errors import MessageError

MAX_HEADER = 65536
"""Most bytes of a header: enough for a list of some thousand bins."""

MAX_BRACKETS = 256
"""Most opening brackets and braces of a header, those inside texts included. It bounds the depth."""

REASON = "header"
"""Reason of every error here, but for values that cannot be written."""


def read_object(data: memoryview) -> dict[str, Any]:
    """Read the bytes of a JSON object.

    Parameters
    ----------
    data : memoryview of bytes
        Text, whole, in UTF-8 without a byte order mark.

    Returns
    -------
    dict
        Object of texts, integers, finite floats, booleans, None, lists and objects. It takes at most about 32
        times as much memory as the text.

    Raises
    ------
    MessageError
        "header": more than `MAX_HEADER` bytes or `MAX_BRACKETS` brackets, not UTF-8, no JSON, no object, a
        key twice in an object, NaN or infinity (also a number too large for a float), half of a surrogate
        pair.
    """
    if len(data) > MAX_HEADER:
        raise MessageError(REASON, f"the header has {len(data)} bytes; expected at most {MAX_HEADER}")
    text = bytes(data)
    # Before parsing, as the parser goes one level down the stack with each of them.
    brackets = text.count(b"[") + text.count(b"{")
    if brackets > MAX_BRACKETS:
        raise MessageError(
            REASON, f"the header has {brackets} opening brackets; expected at most {MAX_BRACKETS}"
        )
    try:
        # Decoded here, as the parser would also take UTF-16, UTF-32 and a byte order mark.
        found = json.loads(
            text.decode("utf-8"), object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refused
        )
        if b"\\" in text:
            json.dumps(found, ensure_ascii=False).encode("utf-8")  # fails for half of a surrogate pair
    except (ValueError, RecursionError) as error:
        raise MessageError(REASON, f"the header is no JSON in UTF-8 ({error}); expected an object") from error
    if not isinstance(found, dict):
        raise MessageError(REASON, f"the header is {shown(found)}; expected a JSON object")
    return found


def write_object(values: Mapping[str, Any]) -> bytes:
    """Return a JSON object that `read_object` reads.

    Raises
    ------
    MessageError
        "value" if a value is nothing that JSON can hold, NaN or infinity included; "header" if the text is
        too long.
    """
    try:
        text = json.dumps(values, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise MessageError(
            "value", f"the header cannot be written ({error}); expected finite plain values"
        ) from error
    if len(text) > MAX_HEADER:
        raise MessageError(REASON, f"the header has {len(text)} bytes; expected at most {MAX_HEADER}")
    return text


def shown(value: object) -> str:
    """Return a decoded value as an error message shows it: short, whatever it is."""
    if isinstance(value, str):
        return repr(value[:40])
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'JSON object'} of {len(value)}"
    if type(value) is int and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    return repr(value)[:60]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise MessageError(REASON, "the header has a key twice; expected each once")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise MessageError(REASON, f"the header holds {text[:40]}; expected numbers that a float64 can hold")
    return value


def _refused(text: str) -> float:
    raise MessageError(REASON, f"the header holds {text}; expected finite numbers")
