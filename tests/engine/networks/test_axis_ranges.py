"""Axis lengths: from operators, into the shapes that TensorRT is told."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.calibration.calibrate import make_operators
from engine.errors import ConfigError
from engine.mpi.grid import Grid
from engine.networks.axis_ranges import DEFAULT_BATCH, AxisRange, axis_lengths, axis_ranges, shape_range
from engine.networks.bundle import load_bundle


def test_lengths_of_operators_are_those_of_grid_and_layout(make_system_matrix) -> None:
    operators = make_operators(make_system_matrix(Grid((7, 5, 1), (0.014, 0.010, 0.002)), 60, (6, 12), 1))
    sizes = {"height": 5, "width": 7, "lines": 6, "bins": 12}
    assert axis_lengths(operators) == sizes | {"voxels": 35, "rows": 120}


def test_every_axis_of_the_shipped_networks_has_a_length(make_system_matrix) -> None:
    operators = SimpleNamespace(
        grid=Grid((26, 13, 1), (0.026, 0.013, 0.001)),
        layout=SimpleNamespace(shape=(60, 130)),
        n_voxels=338,
        n_rows=2,
    )
    ranges = axis_ranges(axis_lengths(operators))
    networks = load_bundle().manifest.networks
    shapes = {r: {n: shape_range(n, a, ranges) for n, a in net.inputs.items()} for r, net in networks.items()}
    assert shapes["rdn"]["v"].optimum == (1, 1, 13, 26)
    assert shapes["lc"]["y"].maximum == (64, 2, 60, 130)
    assert shapes["lc"]["mask"].minimum == shapes["lc"]["mask"].maximum == (1, 1, 60, 130)
    assert ranges["batch"] == DEFAULT_BATCH


def test_an_axis_without_length_is_named() -> None:
    with pytest.raises(ConfigError, match=r"input x .*--axis voxels="):
        shape_range("x", ("batch", "voxels"), axis_ranges({"height": 3}))


@given(st.lists(st.integers(-2, 9), min_size=3, max_size=3))
def test_a_range_must_not_decrease(lengths) -> None:
    if lengths == sorted(lengths) and lengths[0] >= 1:
        assert AxisRange(*lengths).maximum == max(lengths)
    else:
        with pytest.raises(ConfigError, match="expected positive MIN:OPT:MAX"):
            AxisRange(*lengths)


@given(st.lists(st.tuples(*[st.integers(1, 6)] * 4), min_size=1, max_size=4))
def test_a_shape_range_holds_exactly_what_is_inside(axes) -> None:
    ranges = {f"a{i}": AxisRange(*sorted(lengths[:3])) for i, lengths in enumerate(axes)}
    shape = tuple(lengths[3] for lengths in axes)
    inside = all(min(lengths[:3]) <= lengths[3] <= max(lengths[:3]) for lengths in axes)
    found = shape_range("x", tuple(ranges), ranges)
    assert found.holds(shape) == inside
    assert not found.holds((*shape, 1))
