"""Hand-set weights: interpolation in SNR, clamping, and the strictness of the file."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.reconstruction.methods import hand_set, tunable
from engine.solvers.regularization import (
    MethodWeights,
    SnrCurve,
    default_weights_path,
    load_weights,
    save_weights,
)

ROUNDING = 1e-12
"""Relative; a logarithm and an exponential of doubles."""

CURVE = SnrCurve((10.0, 20.0, 40.0), (1.0, 0.01, 0.04))


@pytest.mark.parametrize(
    ("snr_db", "expected"),
    [(10.0, 1.0), (20.0, 0.01), (40.0, 0.04), (15.0, 0.1), (30.0, 0.02), (-3.0, 1.0), (90.0, 0.04)],
)
def test_interpolation_is_geometric_and_clamped(snr_db, expected) -> None:
    assert CURVE.at(snr_db) == pytest.approx(expected, rel=ROUNDING)


@given(st.floats(-100, 100), st.floats(1e-6, 1e6))
def test_scaling_a_curve_scales_the_weight(snr_db, factor) -> None:
    scaled = SnrCurve(CURVE.snr_db, tuple(factor * value for value in CURVE.values))
    assert scaled.at(snr_db) == pytest.approx(factor * CURVE.at(snr_db), rel=ROUNDING)


def test_range() -> None:
    assert [CURVE.covers(snr) for snr in (9.9, 10.0, 40.0, 40.1)] == [False, True, True, False]
    assert not CURVE.covers(None)
    constant = SnrCurve.constant(0.3)
    assert constant.covers(None)
    assert constant.covers(1e3)
    assert constant.at(None) == constant.at(-50.0) == 0.3


def test_an_unknown_snr_is_an_error_where_it_matters() -> None:
    with pytest.raises(ConfigError, match="cannot be estimated"):
        CURVE.at(None)


@pytest.mark.parametrize(
    ("snr_db", "values", "message"),
    [
        ((), (), "at least one"),
        ((1.0,), (1.0, 2.0), "one weight per SNR"),
        ((2.0, 1.0), (1.0, 1.0), "strictly increasing"),
        ((1.0, 1.0), (1.0, 1.0), "strictly increasing"),
        ((math.nan,), (1.0,), "finite"),
        ((1.0,), (0.0,), "positive"),
        ((1.0,), (-0.1,), "positive"),
        ((1.0,), (math.inf,), "positive"),
    ],
)
def test_impossible_curves(snr_db, values, message) -> None:
    with pytest.raises(ConfigError, match=message):
        SnrCurve(snr_db, values)


@pytest.mark.parametrize("iterations", [0, -1])
def test_impossible_iterations(iterations) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        MethodWeights({"tv": CURVE}, iterations)


def test_numbers_and_curves_replace_curves() -> None:
    weights = MethodWeights({"l1": CURVE, "tv": CURVE}, 7).with_weights({"tv": 0.5})
    assert weights.at(20.0) == {"l1": 0.01, "tv": 0.5}
    assert weights.iterations == 7
    assert not weights.covers(50.0)
    with pytest.raises(ConfigError, match="unknown weight 'l2'; expected l1 or tv"):
        weights.with_weights({"l2": 0.5})
    other = SnrCurve((10.0, 30.0), (0.2, 0.4))
    assert weights.with_weights({"l1": other}).at(30.0) == {"l1": 0.4, "tv": 0.5}


def test_the_weights_that_ship_are_complete() -> None:
    weights = load_weights()
    assert set(weights) == set(tunable())
    for method in tunable():
        assert set(weights[method].curves) == set(hand_set(method).names)


def test_round_trip(tmp_path) -> None:
    written = {"admm-tv": MethodWeights({"tv": CURVE}, 11), "art": MethodWeights({"lambda": CURVE}, 3)}
    save_weights(tmp_path / "weights.json", written, {"frames": 4})
    assert load_weights(tmp_path / "weights.json") == written
    assert json.loads((tmp_path / "weights.json").read_text())["source"] == {"frames": 4}


def changed(*path, value):
    """The content of the file that ships, with one entry replaced."""
    content = json.loads(default_weights_path().read_text())
    entry = content
    for key in path[:-1]:
        entry = entry[key]
    entry[path[-1]] = value
    return json.dumps(content)


WEIGHTS_OF_ART = json.loads(default_weights_path().read_text())["methods"]["art"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read the weights"),
        ("[]", "deq-mpi-weights"),
        (changed("schema", value=2), "schema 2"),
        (changed("extra", value=2), "'extra'"),
        (changed("methods", value=[]), "methods: .*`object`.*`array`"),
        (changed("methods", "art", "iterations", value=0), r"methods\.art: iterations is 0"),
        (changed("methods", "art", "iterations", value="9"), r"methods\.art\.iterations: .*`int`.*`str`"),
        (changed("methods", "art", "iterations", value=1.5), r"methods\.art\.iterations: .*`int`.*`float`"),
        (changed("methods", "art", "iterations", value=True), r"methods\.art\.iterations: .*`int`.*`bool`"),
        (
            changed("methods", "art", "weights", "lambda", value={"snr_db": [1], "values": [True]}),
            r"values\[0\]: .*`float`",
        ),
        (
            changed("methods", "art", "weights", "lambda", value={"snr_db": [1], "values": [-1]}),
            r"methods\.art\.weights\.lambda: weight is -1",
        ),
    ],
)
def test_files_that_hold_something_else(tmp_path, content, message) -> None:
    file = tmp_path / "weights.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match=message) as error:
        load_weights(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file(tmp_path) -> None:
    with pytest.raises(ConfigError, match="engine tune"):
        load_weights(tmp_path / "absent.json")
