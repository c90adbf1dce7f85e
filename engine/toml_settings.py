"""Turning TOML tables into frozen dataclasses, refusing whatever does not fit.

Understood field types: int, float, str, bool, Path, Literal of strings, X | Y | None, tuples, nested
dataclasses.
"""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from engine.errors import ConfigError, InputError

T = TypeVar("T")


def require(condition: bool, key: str, value: object, expected: str) -> None:
    """Raise ConfigError naming the key, the value got and what was expected, unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{key} is {value!r}; expected {expected}")


def from_table(cls: type[T], table: Mapping[str, Any], path: str = "") -> T:
    """Build a dataclass from a parsed TOML table.

    Parameters
    ----------
    cls : type
        A frozen dataclass.
    table : mapping
        Keys and values as `tomllib` returns them.
    path : str, optional
        Name of the table inside the file, used in messages.

    Returns
    -------
    cls

    Raises
    ------
    ConfigError
        If a key is unknown or missing, a value has the wrong type, or a check of the class fails.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    where = f"[{path}]" if path else "the configuration"
    for key in table:
        if key not in fields:
            raise ConfigError(f"unknown key '{key}' in {where}; expected one of {', '.join(fields)}")
    hints = get_type_hints(cls)
    values = {
        key: _convert(hints[key], value, f"{path}.{key}" if path else key) for key, value in table.items()
    }
    missing = [
        name
        for name, field in fields.items()
        if name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where} lacks the key '{missing[0]}'; give it a value")
    try:
        return cls(**values)
    except InputError as error:
        raise ConfigError(f"in {where}: {error}") from error


def _convert(expected: Any, value: Any, key: str) -> Any:
    """Check one value against its type and convert lists and tables."""
    origin, arguments = get_origin(expected), get_args(expected)
    if origin in (Union, types.UnionType):
        return _convert_to_any([a for a in arguments if a is not type(None)], value, key)
    if origin is Literal:
        require(value in arguments, key, value, "one of " + ", ".join(repr(a) for a in arguments))
        return value
    if origin is tuple:
        return _convert_list(arguments, value, key)
    if dataclasses.is_dataclass(expected):
        require(isinstance(value, Mapping), key, value, f"a table [{key}]")
        return from_table(expected, value, key)  # type: ignore[arg-type]
    if expected is float and type(value) is int:
        return float(value)
    if expected is Path:
        require(isinstance(value, str) and bool(value), key, value, "a path as text")
        return Path(value)
    require(type(value) is expected, key, value, f"a value of type {expected.__name__}")
    return value


def _convert_to_any(kinds: Sequence[Any], value: Any, key: str) -> Any:
    """Convert to the first type that the value fits."""
    if len(kinds) == 1:
        return _convert(kinds[0], value, key)
    failures = []
    for kind in kinds:
        try:
            return _convert(kind, value, key)
        except ConfigError as error:
            failures.append(str(error).partition("; expected ")[2])
    raise ConfigError(f"{key} is {value!r}; expected {', or '.join(failures)}")


def _convert_list(arguments: tuple[Any, ...], value: Any, key: str) -> tuple[Any, ...]:
    """Convert a TOML array to a tuple of fixed or free length."""
    require(isinstance(value, list), key, value, "a list")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    require(len(value) == len(arguments), key, value, f"a list of {len(arguments)} values")
    return tuple(
        _convert(kind, item, f"{key}[{index}]")
        for index, (kind, item) in enumerate(zip(arguments, value, strict=True))
    )
