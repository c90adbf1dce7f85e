"""The description by which a dataclass says where in an MDF file each of its attributes is stored.

An attribute annotated `Annotated[float, Stored(Kind.REAL)]` is one HDF5 dataset; an attribute that is itself
a dataclass is an HDF5 group. MDF's names are the attribute names in camel case. An attribute with a default
is optional in the file. Reader, writer and checks all walk this one description.
"""

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from enum import Enum, auto
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints


class Kind(Enum):
    """The value types of the MDF specification."""

    TEXT = auto()
    UUID = auto()
    TIME = auto()
    FLAG = auto()
    INTEGER = auto()
    REAL = auto()
    COMPLEX = auto()
    NUMBER = auto()
    """Number kept exactly as stored: int8 to int64, float32, float64, or complex of these."""


@dataclass(frozen=True)
class Stored:
    """Storage of one attribute: its type, shape, names and default.

    Attributes
    ----------
    kind : Kind
        Type of the values.
    shape : tuple
        Shape: () for one value, else one entry per axis: a number, a letter of MDF's dimension names that
        must agree wherever it appears, or "*" for any length.
    aliases : tuple of str
        Other names found in real files; read when the proper name is absent, never written.
    assumed : bool or None
        Value taken with a warning when the dataset is absent.
    """

    kind: Kind
    shape: tuple[int | str, ...] = ()
    aliases: tuple[str, ...] = ()
    assumed: bool | None = None


@dataclass(frozen=True)
class Field:
    """One dataset of a group: the attribute, its MDF name, how it is stored and its default."""

    attribute: str
    name: str
    stored: Stored
    required: bool
    default: Any = None


@dataclass(frozen=True)
class Group:
    """One sub-group of a group: the attribute, its MDF name and its dataclass."""

    attribute: str
    name: str
    model: type
    required: bool


def mdf_name(attribute: str) -> str:
    """Return the MDF name of a snake_case attribute: `num_averages` is stored as `numAverages`."""
    first, *rest = attribute.split("_")
    return first + "".join(word.capitalize() for word in rest)


def stored_fields(model: type) -> tuple[Field, ...]:
    """Return the datasets described by a dataclass, in the order of its attributes."""
    hints = _annotations(model)
    found = []
    for item in fields(model):
        hint = hints[item.name]
        if get_origin(hint) is Annotated:
            required = item.default is MISSING
            default = None if required else item.default
            stored = hint.__metadata__[0]
            found.append(Field(item.name, mdf_name(item.name), stored, required, default))
    return tuple(found)


def subgroups(model: type) -> tuple[Group, ...]:
    """Return the sub-groups described by a dataclass, in the order of its attributes."""
    hints = _annotations(model)
    found = []
    for item in fields(model):
        hint = hints[item.name]
        if get_origin(hint) is Annotated:
            continue
        if get_origin(hint) in (Union, UnionType):
            hint = next(kind for kind in get_args(hint) if kind is not type(None))
        found.append(Group(item.name, mdf_name(item.name), hint, item.default is MISSING))
    return tuple(found)


@cache
def _annotations(model: Any) -> dict[str, Any]:
    return get_type_hints(model, include_extras=True)


def walk(node: Any, prefix: str = "") -> Iterator[tuple[str, Field, Any]]:
    """Yield (dataset path, field, value) of a model object and its sub-groups, absent groups left out."""
    for field in stored_fields(type(node)):
        yield f"{prefix}/{field.name}", field, getattr(node, field.attribute)
    for group in subgroups(type(node)):
        child = getattr(node, group.attribute)
        if child is not None:
            yield from walk(child, f"{prefix}/{group.name}")
