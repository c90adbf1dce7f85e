"""The search for the best weights, on scores whose maximum is known."""

import math

import pytest

from engine.errors import ConfigError
from engine.tuning.search import Lattice, climb, ladder

WIDE = 100
"""Half width of a box that stops no search here."""


def box(n_weights: int, half_width: int = WIDE):
    return (-half_width,) * n_weights, (half_width,) * n_weights


def test_the_lattice_is_logarithmic_and_finds_its_own_values_again() -> None:
    lattice = Lattice(8)
    assert lattice.values((-16, 0, 8)) == (0.01, 1.0, 10.0)
    assert lattice.values((1,)) == (1.334,)  # 10^(1/8) = 1.33352
    assert all(lattice.place(lattice.values((place,))) == (place,) for place in range(-60, 60))
    assert lattice.place((0.02,)) == (round(8 * math.log10(0.02)),)
    assert lattice.steps == (4, 2, 1)
    assert Lattice(2).steps == (1,)


@pytest.mark.parametrize("per_decade", [0, 1, 3, 12, -8])
def test_impossible_lattices_are_one_clear_line(per_decade) -> None:
    with pytest.raises(ConfigError, match=f"^{per_decade} .*2, 4, 8, 16"):
        Lattice(per_decade)


def test_a_ladder_is_centred_on_its_start() -> None:
    assert ladder(-3, 2, 4) == [(-11,), (-7,), (-3,), (1,), (5,)]


@pytest.mark.parametrize("top", [-37, -1, 0, 5, 64])
def test_one_weight_is_found_wherever_its_maximum_is(top) -> None:
    assert climb(lambda point: -abs(point[0] - top), (0,), (4, 2, 1), box(1)) == (top,)


def test_two_weights_that_depend_on_each_other_are_found_to_one_place() -> None:
    """A quadratic with its long axis between the coordinates, condition number 3."""

    def score(point):
        x, y = point[0] - 13, point[1] + 22
        return -(x**2 + y**2 + x * y)

    for start in ((0, 0), (40, 40), (-9, -60)):
        x, y = climb(score, start, (4, 2, 1), box(2))
        assert max(abs(x - 13), abs(y + 22)) <= 1


def test_the_box_stops_the_search_at_its_edge() -> None:
    asked = []

    def score(point):
        asked.append(point[0])
        return point[0]

    assert climb(score, (0,), (4, 2, 1), box(1, 10)) == (10,)
    assert max(asked) == 10


def test_a_plateau_is_not_walked() -> None:
    def score(point):
        return 1e-6 * point[0]

    assert climb(score, (3,), (4, 2, 1), box(1), min_gain=1e-3) == (3,)


def test_a_start_without_neighbours_inside_is_the_answer() -> None:
    assert climb(lambda point: point[0], (500,), (4, 1), box(1)) == (500,)
