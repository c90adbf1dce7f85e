"""The paper's two experimental phantoms (Sec. IV-B, Fig. 2), drawn on a voxel grid."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.mpi.grid import Grid
from engine.mpi.simulation.phantoms import box_average

SUBPIXELS = 8
"""Points per voxel and axis: partial volumes are right to 1/64."""

TUBE_LENGTH, TUBE_RADIUS, TUBE_GAP = 20e-3, 2e-3, 4e-3
"""Metres; the gap is that between the lumens, whose walls touch."""

ARM_LENGTH, STEM_LENGTH, ARM_WIDTH, ARM_SPACING = 10.7e-3, 8.8e-3, 3.5e-3, 3.5e-3
"""Metres; the spacing is that between the free ends of the arms."""


def two_tubes(grid: Grid) -> NDArray[np.float32]:
    """Draw the lumens of two parallel tubes along x, seen from the side.

    Returns
    -------
    ndarray of float32, shape (Ny, Nx)
        Concentration 1 inside; voxels on a border hold their share.
    """
    offset = TUBE_RADIUS + TUBE_GAP / 2
    half = TUBE_LENGTH / 2
    tubes = [((-half, y), (half, y), 2 * TUBE_RADIUS) for y in (-offset, offset)]
    return draw_bars(grid, tubes)


def y_shape(grid: Grid) -> NDArray[np.float32]:
    """Draw a Y lying along x: a stem and two arms, whose free ends are `ARM_SPACING` apart.

    The air bubble of the paper's phantom is left out: its size is not stated.

    Returns
    -------
    ndarray of float32, shape (Ny, Nx)
        As `two_tubes`.
    """
    # Each arm's middle line ends half a width and half a spacing from the axis.
    rise = (ARM_SPACING + ARM_WIDTH) / 2
    reach = float(np.sqrt(ARM_LENGTH**2 - rise**2))
    fork = (STEM_LENGTH - reach) / 2  # puts the middle of the Y in the middle of the field of view
    bars = [((fork - STEM_LENGTH, 0.0), (fork, 0.0), ARM_WIDTH)]
    bars += [((fork, 0.0), (fork + reach, side * rise), ARM_WIDTH) for side in (-1, 1)]
    return draw_bars(grid, bars)


Bar = tuple[tuple[float, float], tuple[float, float], float]
"""Two ends of the middle line (x, y) and the width, metres from the centre of the field of view."""


def draw_bars(grid: Grid, bars: Sequence[Bar]) -> NDArray[np.float32]:
    """Draw straight bars with square ends; shape (Ny, Nx), 1 inside, voxels on a border hold their share."""
    x, y = subpixel_axes(grid)
    inside = np.zeros((len(y), len(x)), bool)
    for (x0, y0), (x1, y1), width in bars:
        length = np.hypot(x1 - x0, y1 - y0)
        along_x, along_y = (x1 - x0) / length, (y1 - y0) / length
        along = (x - x0)[None] * along_x + (y - y0)[:, None] * along_y
        across = (y - y0)[:, None] * along_x - (x - x0)[None] * along_y
        inside |= (along >= 0) & (along <= length) & (np.abs(across) <= width / 2)
    return box_average(inside.astype(np.float32), SUBPIXELS)


def subpixel_axes(grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x and y of the points that a shape holds or not, metres from the middle of the field of view."""
    nx, ny, _ = grid.size
    x, y = (
        (np.arange(n * SUBPIXELS) + 0.5) * extent / (n * SUBPIXELS) - extent / 2
        for n, extent in zip((nx, ny), grid.field_of_view[:2], strict=True)
    )
    return x, y
