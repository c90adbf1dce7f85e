"""Half-widths of every voxel, by a table written out by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest

from engine.errors import ConfigError, PairingError
from engine.networks.interval_table import Intervals

ROUNDING = 1e-6
"""Relative, of single precision."""

TABLE = Intervals(
    method="deq",
    settings={"tolerance": 1e-4, "memory": 5},
    coverage=0.9,
    snr_db=np.array([10.0, 20.0, 40.0]),
    snr_range=(2.0, 47.0),
    peak_edges=np.array([0.1, 0.5]),
    share_edges=np.array([0.6]),
    below=np.arange(18.0).reshape(3, 3, 2) / 100,
    above=np.arange(18.0)[::-1].reshape(3, 3, 2) / 50,
    source={"split": "validation"},
)


@pytest.fixture
def image() -> np.ndarray:
    """Values around all borders, a whole neighbourhood of zeros, and two slices."""
    rng = np.random.default_rng(3)
    image = (rng.uniform(0, 1.2, (2, 6, 7)) ** 3).astype(np.float32)
    image[:, :4, :4] = 0
    image[1, 4, 5] = image[0, 4, 5] = 0.5
    return image


def by_hand(image, place, snr):
    """Half-widths of one voxel: neighbourhood by slices, classes by comparison, SNR by numpy."""
    z, y, x = place
    peak = image[max(z - 1, 0) : z + 2, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].max()
    share = image[place] / peak if peak > 0 else 0.0
    row = int(peak >= 0.1) + int(peak >= 0.5)
    column = int(share >= 0.6)
    return tuple(np.interp(snr, [10, 20, 40], table[:, row, column]) for table in (TABLE.below, TABLE.above))


@pytest.mark.parametrize("snr", [-4.0, 10.0, 13.7, 20.0, 39.9, 40.0, 55.0])
def test_every_voxel_has_the_half_widths_of_its_class(image, snr) -> None:
    found = TABLE.of_image(image, snr, 1.0)
    assert found.low.dtype == found.high.dtype == np.float32
    assert found.low.shape == found.high.shape == image.shape
    for place in np.ndindex(image.shape):
        below, above = by_hand(image, place, snr)
        np.testing.assert_allclose(found.low[place], max(image[place] - below, 0), ROUNDING, ROUNDING)
        np.testing.assert_allclose(found.high[place], image[place] + above, ROUNDING)


def test_bounds_hold_the_image_and_are_concentrations(image) -> None:
    found = TABLE.of_image(image, 17.0, 1.0)
    assert np.all((found.low >= 0) & (found.low <= image) & (image <= found.high))
    larger = TABLE.of_image(image, 17.0, 250.0)
    np.testing.assert_allclose(larger.low, 250 * found.low, ROUNDING)
    np.testing.assert_allclose(larger.high, 250 * found.high, ROUNDING)
    assert larger.coverage == 0.9


def test_a_negative_image_value_has_an_interval_of_concentrations() -> None:
    found = TABLE.of_image(np.full((1, 2, 2), -0.7, np.float32), 17.0, 1.0)
    assert np.all(found.low == 0)
    assert np.all(found.high >= 0)


@pytest.mark.parametrize(("snr", "clamped"), [(1.9, True), (2.0, False), (30.0, False), (47.1, True)])
def test_an_snr_beyond_the_calibration_is_reported(image, snr, clamped) -> None:
    assert TABLE.of_image(image, snr, 1.0).clamped is clamped


def test_one_level_holds_at_every_snr(image) -> None:
    single = replace(TABLE, snr_db=TABLE.snr_db[1:2], below=TABLE.below[1:2], above=TABLE.above[1:2])
    for snr in (-5.0, 60.0):
        np.testing.assert_array_equal(
            single.of_image(image, snr, 1.0).high, TABLE.of_image(image, 20.0, 1.0).high
        )


def test_table_survives_a_round_trip(image) -> None:
    content = json.loads(json.dumps(TABLE.to_dict()))
    again = Intervals.from_dict(content)
    assert again.to_dict() == TABLE.to_dict()
    np.testing.assert_array_equal(again.of_image(image, 22.0, 3.0).low, TABLE.of_image(image, 22.0, 3.0).low)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"kind": "weights"}, "kind is 'weights'.*'deq-mpi-intervals'"),
        ({"schema": 2}, "schema 2; .*schema 1"),
        ({"width": 3}, "unknown key 'width'; expected method, settings"),
        ({"coverage": 1.0}, "coverage is 1.0; expected a number between 0 and 1"),
        ({"coverage": "0.9"}, "coverage: .*`float`.*`str`"),
        ({"method": None}, "method: .*`str`.*`null`"),
        ({"settings": []}, "settings: .*`object`.*`array`"),
        ({"snr_db": []}, "snr_db is empty"),
        ({"snr_db": [10, 10, 40]}, "expected a list of increasing numbers"),
        ({"snr_db": [10, 20]}, r"below has shape \(3, 3, 2\); expected \(2, 3, 2\)"),
        ({"snr_range": [1, 2, 3]}, "snr_range: .*length 2"),
        ({"peak_edges": [[0.1, 0.5]]}, "peak_edges is .* increasing"),
        ({"share_edges": ["0.6"]}, "share_edges is .* finite numbers"),
        ({"above": [[1.0], [2.0, 3.0]]}, "above: .*inhomogeneous"),
        ({"below": (-TABLE.below).tolist()}, "none of them negative"),
        ({"below": np.full((3, 3, 2), np.nan).tolist()}, "expected finite numbers"),
    ],
)
def test_a_table_with_impossible_content_is_refused(changes, text) -> None:
    with pytest.raises(ConfigError, match=text):
        Intervals.from_dict(TABLE.to_dict() | changes)


def test_a_table_that_lacks_a_key_is_refused() -> None:
    content = TABLE.to_dict()
    del content["above"]
    with pytest.raises(ConfigError, match=r"missing.*`above`"):
        Intervals.from_dict(content)


def test_other_settings_are_refused_and_named() -> None:
    TABLE.require_settings("deq", {"memory": 5, "tolerance": 1e-4})
    with pytest.raises(PairingError, match=r"tolerance 0\.001 .*0\.0001"):
        TABLE.require_settings("deq", {"memory": 5, "tolerance": 1e-3})
    with pytest.raises(PairingError, match=r"pp-mpi .*deq"):
        TABLE.require_settings("pp-mpi", {"memory": 5, "tolerance": 1e-4})
    with pytest.raises(PairingError, match=r"beta 1 .*None"):
        TABLE.require_settings("deq", {"memory": 5, "tolerance": 1e-4, "beta": 1})


def test_a_tuple_among_the_settings_is_the_list_that_a_file_holds() -> None:
    table = replace(TABLE, settings={"levels": (1, 2)})
    Intervals.from_dict(json.loads(json.dumps(table.to_dict()))).require_settings("deq", {"levels": (1, 2)})
