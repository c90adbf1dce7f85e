"""Values of configurations and other small files: read strictly into frozen dataclasses, and written back.

TOML and JSON hold tables, lists, texts and numbers. msgspec compares them with the types of a dataclass, but
it passes over unknown keys and does not say in which entry of a table an error lies. So each table is read
by itself here, the innermost first.
"""

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
import numpy as np

from engine.errors import ConfigError, InputError

T = TypeVar("T")

ROOT = "the file"
"""What messages call the outermost table."""


def require(condition: bool, key: str, value: object, expected: str) -> None:
    """Raise ConfigError naming the key, the value got and what was expected, unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{key} is {value!r}; expected {expected}")


def from_plain(kind: type[T], value: object, place: str = "") -> T:
    """Read plain values into a type, most often a frozen dataclass.

    Parameters
    ----------
    kind : type
        A dataclass, or what one may have as a field: types that msgspec knows, `Path` and arrays. A whole
        number passes as a float; nothing else is converted.
    value : object
        What `tomllib` or `json` returned.
    place : str, optional
        Where the value stands inside the file, used in messages.

    Raises
    ------
    ConfigError
        If a key is unknown or missing, a value is of the wrong type, or a check of a dataclass fails.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    match value:
        case Mapping() if is_dataclass(kind):
            value = _fields_from_plain(kind, value, place)
        case Mapping() if origin is Mapping:
            value = {key: from_plain(arguments[1], item, _inside(place, key)) for key, item in value.items()}
        case list() | tuple() if origin is tuple and arguments[-1] is Ellipsis:
            value = [from_plain(arguments[0], item, f"{place}[{i}]") for i, item in enumerate(value)]
        case str() if origin is Literal:  # msgspec does not say what is allowed
            require(value in arguments, place, value, f"one of {', '.join(map(repr, arguments))}")
        case _ if origin in (Union, types.UnionType) and value is not None:
            kinds: list[type[T]] = [argument for argument in arguments if argument is not types.NoneType]
            if len(kinds) == 1:
                return from_plain(kinds[0], value, place)
    try:
        found: T = msgspec.convert(value, kind, dec_hook=_of_other_type)
    except msgspec.ValidationError as error:
        reason, _, inner = str(error).partition(" - at `$")
        where = (place + inner.removesuffix("`")).removeprefix(".")
        raise ConfigError(f"{where or ROOT}: {reason}") from error
    except InputError as error:
        raise ConfigError(f"in {place or ROOT}: {error}") from error
    return found


def to_plain(value: object) -> Any:
    """Return a dataclass as plain values that JSON can hold and `from_plain` reads back."""
    return msgspec.to_builtins(value, enc_hook=_plain)


def without_header(content: object, kind: str, schema: int) -> dict[str, Any]:
    """Return the content of a JSON file without the kind and schema that stand in each of ours.

    They are compared before anything else is read: another kind or schema has other keys.

    Raises
    ------
    ConfigError
        If one of them is another.
    """
    values = dict(content) if isinstance(content, Mapping) else {}
    found = (values.pop("kind", None), values.pop("schema", None))
    if found != (kind, schema):
        raise ConfigError(
            f"kind is {found[0]!r}, schema {found[1]!r}; this version reads kind {kind!r}, schema {schema}"
        )
    return values


def _fields_from_plain(kind: type, table: Mapping[str, Any], place: str) -> dict[str, Any]:
    types_of = get_type_hints(kind)
    known = {field.name: types_of[field.name] for field in fields(kind)}
    for key in table:
        if key not in known:
            raise ConfigError(f"{place or ROOT} has the unknown key {key!r}; expected {', '.join(known)}")
    return {key: from_plain(known[key], value, _inside(place, key)) for key, value in table.items()}


def _of_other_type(kind: type, value: object) -> object:
    """Make a path or an array; msgspec turns the errors of this function into its own."""
    if kind is not Path:
        return np.asarray(value)
    if isinstance(value, Path) or (isinstance(value, str) and value):
        return Path(value)
    raise TypeError(f"Expected a path as text, got {value!r}")


def _plain(value: Any) -> object:
    return str(value) if isinstance(value, Path) else value.tolist()


def _inside(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key
