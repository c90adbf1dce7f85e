"""Plain values become dataclasses only where every key and every type is as declared, however deep."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.errors import ConfigError, InputError
from engine.machine.checked_values import from_plain, require, to_plain, without_header


@dataclass(frozen=True)
class Leaf:
    size: int = 1
    weight: float = 0.5

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"size is {self.size}; expected at least 1")


@dataclass(frozen=True)
class Tree:
    name: str
    leaf: Leaf = Leaf()
    other: Leaf | None = None
    leaves: tuple[Leaf, ...] = ()
    named: Mapping[str, Leaf] = field(default_factory=dict)
    axes: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    span: tuple[float, float] = (0.0, 1.0)
    mode: Literal["fast", "exact"] = "fast"
    threads: int | Literal["auto"] | None = None
    path: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Table:
    values: NDArray[np.float64]


FULL = {
    "name": "t",
    "leaf": {"size": 2, "weight": 1.5},
    "other": {"size": 3, "weight": 0.5},
    "leaves": [{"size": 4, "weight": 0.5}, {"size": 5, "weight": 0.25}],
    "named": {"a": {"size": 6, "weight": 0.5}},
    "axes": {"v": [1, "rows"]},
    "span": [0.5, 2.5],
    "mode": "exact",
    "threads": "auto",
    "path": "folder/file",
    "facts": {"any": [1, {"key": None}]},
}


def test_every_kind_of_field_is_read_and_written_back() -> None:
    found = from_plain(Tree, FULL)
    assert found == Tree(
        name="t",
        leaf=Leaf(2, 1.5),
        other=Leaf(3),
        leaves=(Leaf(4), Leaf(5, 0.25)),
        named={"a": Leaf(6)},
        axes={"v": (1, "rows")},
        span=(0.5, 2.5),
        mode="exact",
        threads="auto",
        path=Path("folder/file"),
        facts={"any": [1, {"key": None}]},
    )
    assert json.loads(json.dumps(to_plain(found))) == FULL
    assert from_plain(Tree, to_plain(found)) == found


def test_defaults_are_those_of_the_class() -> None:
    assert from_plain(Tree, {"name": "t"}) == Tree("t")
    assert from_plain(Tree, {"name": "t", "other": None}).other is None


def test_a_whole_number_is_a_float_where_one_is_declared() -> None:
    weight = from_plain(Leaf, {"weight": 2}).weight
    assert (weight, type(weight)) == (2.0, float)


@pytest.mark.parametrize(
    ("place", "values"),
    [
        ("the file", {"name": "t", "colour": 1}),
        ("leaf", {"name": "t", "leaf": {"colour": 1}}),
        ("other", {"name": "t", "other": {"colour": 1}}),
        (r"leaves\[1\]", {"name": "t", "leaves": [{}, {"colour": 1}]}),
        (r"named\.b", {"name": "t", "named": {"a": {}, "b": {"colour": 1}}}),
    ],
)
def test_an_unknown_key_is_refused_with_its_place_and_what_is_expected(place: str, values: object) -> None:
    expected = "name, leaf, other" if place == "the file" else "size, weight"
    with pytest.raises(ConfigError, match=f"^{place} has the unknown key 'colour'; expected {expected}"):
        from_plain(Tree, values)


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ("name", "name", 1),
        ("leaf.size", "leaf", {"size": 1.5}),
        ("leaf.size", "leaf", {"size": 1.0}),
        ("leaf.size", "leaf", {"size": "1"}),
        ("leaf.size", "leaf", {"size": True}),
        ("leaf.size", "leaf", {"size": None}),
        ("leaf.weight", "leaf", {"weight": "1"}),
        ("leaf.weight", "leaf", {"weight": True}),
        ("leaf", "leaf", [1]),
        ("leaf", "leaf", None),
        ("other", "other", 3),
        ("leaves", "leaves", {}),
        ("leaves", "leaves", "ab"),
        (r"leaves\[1\]", "leaves", [{}, 3]),
        (r"leaves\[1\].weight", "leaves", [{}, {"weight": "x"}]),
        (r"named.a.size", "named", {"a": {"size": "x"}}),
        ("named", "named", [1]),
        (r"axes.v", "axes", {"u": [], "v": "rows"}),
        (r"axes.v\[1\]", "axes", {"v": [1, 1.5]}),
        (r"axes.v\[0\]", "axes", {"v": [True]}),
        ("span", "span", [1.0]),
        ("span", "span", [1.0, 2.0, 3.0]),
        (r"span\[1\]", "span", [1.0, "2"]),
        ("mode", "mode", "slow"),
        ("mode", "mode", 1),
        ("threads", "threads", True),
        ("threads", "threads", "all"),
        ("path", "path", 3),
        ("path", "path", ""),
        ("facts", "facts", []),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_place(place: str, key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^{place}( is |: )") as raised:
        from_plain(Tree, {"name": "t"} | {key: value})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("values", [[], None, 3, "text", [{"name": "t"}]])
def test_what_is_no_table_is_refused(values: object) -> None:
    with pytest.raises(ConfigError, match=r"^the file: "):
        from_plain(Tree, values)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"missing.*`name`"):
        from_plain(Tree, {})


def test_the_choices_of_a_text_are_named() -> None:
    with pytest.raises(ConfigError, match="mode is 'slow'; expected one of 'fast', 'exact'"):
        from_plain(Tree, {"name": "t", "mode": "slow"})


def test_a_check_of_a_nested_class_is_a_configuration_error_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"^in leaves\[1\]: size is 0; expected at least 1$"):
        from_plain(Tree, {"name": "t", "leaves": [{}, {"size": 0}]})


def test_a_place_stands_in_front_of_all_others() -> None:
    with pytest.raises(ConfigError, match=r"^network\.leaf\.size: "):
        from_plain(Tree, {"name": "t", "leaf": {"size": "1"}}, "network")


def test_arrays_are_read_from_lists_and_written_as_such() -> None:
    values = [[1.0, 2.0], [3.0, 4.0]]
    table = from_plain(Table, {"values": values})
    np.testing.assert_array_equal(table.values, np.array(values), strict=True)
    assert to_plain(table) == {"values": values}
    with pytest.raises(ConfigError, match=r"^values: "):
        from_plain(Table, {"values": [[1.0], [2.0, 3.0]]})


@pytest.mark.parametrize("content", [{}, [], None, {"kind": "k", "schema": 2}, {"kind": "x", "schema": 1}])
def test_another_kind_or_schema_is_refused_and_both_are_named(content: object) -> None:
    with pytest.raises(ConfigError, match=r"reads kind 'k', schema 1$"):
        without_header(content, "k", 1)


def test_kind_and_schema_are_taken_off() -> None:
    assert without_header({"kind": "k", "schema": 1, "a": 2}, "k", 1) == {"a": 2}


def test_a_requirement_names_key_value_and_what_is_expected() -> None:
    require(True, "key", 1, "anything")
    with pytest.raises(ConfigError, match=r"^key is 1; expected 2$"):
        require(False, "key", 1, "2")
