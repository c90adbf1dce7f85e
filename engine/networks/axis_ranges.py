"""Lengths of the free axes of a network: what a TensorRT plan is built for."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from engine.errors import ConfigError
from engine.networks.manifest import Shape
from engine.operators.operators import Operators

Lengths = tuple[int, ...]
"""Shape of a tensor with every axis fixed."""


@dataclass(frozen=True)
class AxisRange:
    """Lengths that an axis may have.

    Attributes
    ----------
    minimum, optimum, maximum : int
        Lengths: the shortest, the one to be fastest at, the longest.

    Raises
    ------
    ConfigError
        If they are not increasing, or not positive.
    """

    minimum: int
    optimum: int
    maximum: int

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise ConfigError(
                f"an axis has the lengths {self.minimum}:{self.optimum}:{self.maximum}; expected positive "
                "MIN:OPT:MAX that do not decrease"
            )

    @classmethod
    def fixed(cls, length: int) -> "AxisRange":
        """Return the range of one length."""
        return cls(length, length, length)


@dataclass(frozen=True)
class ShapeRange:
    """Shapes that a tensor may have.

    Attributes
    ----------
    minimum, optimum, maximum : tuple of int
        Shapes of equal rank: the smallest, the one to be fastest at, the largest.
    """

    minimum: Lengths
    optimum: Lengths
    maximum: Lengths

    def holds(self, shape: Lengths) -> bool:
        """Whether a shape is inside."""
        return len(shape) == len(self.minimum) and all(
            low <= length <= high for low, length, high in zip(self.minimum, shape, self.maximum, strict=True)
        )


BATCH = "batch"
"""Name of the axis of frames."""

DEFAULT_BATCH = AxisRange(1, 1, 64)
"""Numbers of frames: one at a time while a scan runs; the engine solves stored frames 32 at a time."""

SLOTS = "slots"
"""Name of the axis of states that a step mixes."""

DEFAULT_SLOTS = AxisRange(2, 7, 18)
"""Numbers of states: two more than the accelerator remembers, whose usual memory is 5."""

REFERENCE_LENGTHS: Mapping[str, int] = MappingProxyType(
    {"height": 13, "width": 26, "voxels": 338, "lines": 60, "bins": 130}
)
"""Lengths of the reference scanner: a grid of 26 x 13 voxels, a layout of 60 angles x 130 bins. The number of
rows depends on which of them a calibration selects."""


def axis_lengths(operators: Operators) -> dict[str, int]:
    """Return the lengths of all axes but the batch that a system matrix decides."""
    width, height, _ = operators.grid.size
    lines, bins = operators.layout.shape
    sizes = {"height": height, "width": width, "lines": lines, "bins": bins}
    return sizes | {"voxels": operators.n_voxels, "rows": operators.n_rows}


def axis_ranges(lengths: Mapping[str, int], batch: AxisRange = DEFAULT_BATCH) -> dict[str, AxisRange]:
    """Return a range for every axis: fixed lengths, a number of frames and one of states."""
    return {BATCH: batch, SLOTS: DEFAULT_SLOTS} | {
        name: AxisRange.fixed(length) for name, length in lengths.items()
    }


def shape_range(name: str, axes: Shape, ranges: Mapping[str, AxisRange]) -> ShapeRange:
    """Return the shapes of a network input from the ranges of its named axes.

    Parameters
    ----------
    name : str
        Name of the input, for the error.
    axes : tuple of int or str
        Fixed lengths and names of free axes, as in the manifest.
    ranges : mapping of str to AxisRange
        Ranges by axis name; there may be more than are used.

    Raises
    ------
    ConfigError
        If an axis has no range.
    """
    unknown = sorted({axis for axis in axes if isinstance(axis, str) and axis not in ranges})
    if unknown:
        raise ConfigError(
            f"input {name} has the axes {', '.join(unknown)} without a length; known are "
            f"{', '.join(sorted(ranges))}: give the operators (--operators) or their lengths "
            f"(--axis {unknown[0]}=MIN:OPT:MAX)"
        )
    taken = [ranges[axis] if isinstance(axis, str) else AxisRange.fixed(axis) for axis in axes]
    return ShapeRange(
        tuple(axis.minimum for axis in taken),
        tuple(axis.optimum for axis in taken),
        tuple(axis.maximum for axis in taken),
    )
