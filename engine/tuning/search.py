"""Search for the weights with the highest score, on a logarithmic lattice shared by all starts."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from engine.errors import ConfigError

Point = tuple[int, ...]
"""A point of the lattice: one whole number per weight."""


@dataclass(frozen=True)
class Lattice:
    """Lattice of the weights 10^(k / per_decade) for whole numbers k.

    Attributes
    ----------
    per_decade : int
        Values per factor of ten: a power of two, at least 2.

    Raises
    ------
    ConfigError
        If `per_decade` is anything else.
    """

    per_decade: int = 8

    def __post_init__(self) -> None:
        if self.per_decade < 2 or self.per_decade & (self.per_decade - 1):
            raise ConfigError(f"{self.per_decade} values per decade; expected 2, 4, 8, 16, ...")

    @property
    def half_decade(self) -> int:
        """Number of places in half a decade, the coarse step."""
        return self.per_decade // 2

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps from the coarse to the finest one, each half of the one before."""
        return tuple(self.half_decade >> halvings for halvings in range(self.half_decade.bit_length()))

    def place(self, weights: Sequence[float]) -> Point:
        """Return the places next to positive weights."""
        return tuple(round(math.log10(weight) * self.per_decade) for weight in weights)

    def values(self, point: Point) -> tuple[float, ...]:
        """Return the weights at a point, with four significant digits."""
        return tuple(float(f"{10 ** (place / self.per_decade):.4g}") for place in point)


def ladder(start: int, half_width: int, step: int) -> list[Point]:
    """Return the places of one weight from `start - half_width step` to `start + half_width step`."""
    return [(start + rung * step,) for rung in range(-half_width, half_width + 1)]


def climb(
    score: Callable[[Point], float],
    start: Point,
    steps: Sequence[int],
    box: tuple[Point, Point],
    min_gain: float = 0.0,
) -> Point:
    """Walk from a point to a maximum, along one weight at a time, in ever smaller steps.

    Each move goes to the best neighbour, one step up or down in one weight. Without a better neighbour the
    next, smaller step is taken.

    Parameters
    ----------
    score : callable
        Function to maximise, asked for the same point more than once.
    start : tuple of int
        Point to start from.
    steps : sequence of int
        Steps, in the order of use.
    box : tuple of (tuple of int)
        Lowest and highest place of each weight; no other point is scored, but for the start.
    min_gain : float, optional
        Gain that a move has to exceed, so that no walk goes along a plateau.

    Returns
    -------
    tuple of int
    """
    best = start
    for step in steps:
        while True:
            neighbours = [point for point in _neighbours(best, step) if _within(point, box)]
            better = max(neighbours, key=score, default=best)
            if not score(better) > score(best) + min_gain:
                break
            best = better
    return best


def _neighbours(point: Point, step: int) -> Iterator[Point]:
    for axis in range(len(point)):
        for sign in (-1, 1):
            yield (*point[:axis], point[axis] + sign * step, *point[axis + 1 :])


def _within(point: Point, box: tuple[Point, Point]) -> bool:
    return all(low <= place <= high for low, place, high in zip(box[0], point, box[1], strict=True))
