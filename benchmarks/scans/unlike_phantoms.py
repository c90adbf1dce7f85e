"""Phantoms unlike the vessels that the networks were trained on, drawn on a voxel grid.

Lengths fit the reference scanner's field of view of 52 mm x 26 mm.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from benchmarks.scans.drawn_phantoms import SUBPIXELS, Bar, draw_bars, subpixel_axes
from engine.mpi.grid import Grid
from engine.mpi.simulation.phantoms import box_average

POINTS = ((0.12, 0.3), (0.3, 0.75), (0.45, 0.25), (0.54, 0.75), (0.62, 0.75), (0.75, 0.3), (0.88, 0.6))
"""Places in shares of the field of view; the fourth and the fifth are two voxels apart."""

BAR_GROUPS = ((2e-3, 3), (3e-3, 3), (4e-3, 2))
"""Width in metres, which is also the gap, and number of the bars of each group."""

BAR_LENGTH, GROUP_GAP = 18e-3, 3.5e-3

STROKE = 3e-3
"""Width of the letters' lines in metres."""

DISCS = ((-15e-3, 0.0, 9e-3), (6e-3, 0.0, 6e-3), (19e-3, 0.0, 3e-3))
"""Centre (x, y) and radius in metres."""


def points(grid: Grid) -> NDArray[np.float32]:
    """Fill single voxels with tracer; shape (Ny, Nx), peak 1."""
    nx, ny, _ = grid.size
    image = np.zeros((ny, nx), np.float32)
    for x, y in POINTS:
        image[int(y * ny), int(x * nx)] = 1.0
    return image


def bars(grid: Grid) -> NDArray[np.float32]:
    """Draw upright bars in groups of 2, 3 and 4 mm, each with gaps of its width; shape (Ny, Nx), peak 1."""
    widths = [(2 * count - 1) * width for width, count in BAR_GROUPS]
    left = -(sum(widths) + (len(widths) - 1) * GROUP_GAP) / 2
    drawn: list[Bar] = []
    for (width, count), whole in zip(BAR_GROUPS, widths, strict=True):
        middles = [left + (2 * number + 0.5) * width for number in range(count)]
        drawn += [((x, -BAR_LENGTH / 2), (x, BAR_LENGTH / 2), width) for x in middles]
        left += whole + GROUP_GAP
    return draw_bars(grid, drawn)


def letters(grid: Grid) -> NDArray[np.float32]:
    """Draw the letters MPI, 18 mm high; shape (Ny, Nx), peak 1."""
    lines = [
        *(((-20, -9), (-20, 9)), ((-20, 9), (-13, -2)), ((-13, -2), (-6, 9)), ((-6, -9), (-6, 9))),  # M
        *(((2, -9), (2, 9)), ((2, 7.5), (11, 7.5)), ((2, -0.5), (11, -0.5)), ((10, -1), (10, 8))),  # P
        ((19, -9), (19, 9)),  # I
    ]
    return draw_bars(
        grid, [((x0 / 1e3, y0 / 1e3), (x1 / 1e3, y1 / 1e3), STROKE) for (x0, y0), (x1, y1) in lines]
    )


def discs(grid: Grid) -> NDArray[np.float32]:
    """Draw three filled discs of 18, 12 and 6 mm; shape (Ny, Nx), peak 1, borders hold their share."""
    x, y = subpixel_axes(grid)
    inside = np.zeros((len(y), len(x)), bool)
    for x0, y0, radius in DISCS:
        inside |= (x - x0)[None] ** 2 + (y - y0)[:, None] ** 2 <= radius**2
    return box_average(inside.astype(np.float32), SUBPIXELS)


UNLIKE_PHANTOMS: Mapping[str, Callable[[Grid], NDArray[np.float32]]] = MappingProxyType(
    {"points": points, "bars": bars, "letters": letters, "discs": discs}
)
