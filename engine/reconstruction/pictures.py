"""Images side by side with colour bars, as a picture file."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from engine.errors import InputError
from engine.mpi.grid import Grid

MAX_PANELS = 24
"""Most panels of a picture: more cannot be read; callers choose which to show."""

MAX_COLUMNS = 4

IMAGE_SIDE = 2.3
"""Inches of the longer side of an image."""

LEFT, RIGHT, BOTTOM, TOP = 0.6, 0.9, 0.45, 0.3
"""Inches around an image: y axis, colour bar, x axis, title."""

BAR_GAP, BAR_WIDTH = 0.08, 0.1
"""Inches between an image and its colour bar, and of the bar."""

DOTS_PER_INCH = 150


@dataclass(frozen=True)
class Panel:
    """One image of a picture.

    Attributes
    ----------
    title : str
        Text above the image.
    image : ndarray of float, shape (Nz, Ny, Nx)
        Concentration; with several slices the largest value along z is shown, and the title says so.
    """

    title: str
    image: NDArray[np.floating]


def save_pictures(
    path: str | os.PathLike[str],
    panels: Sequence[Panel],
    grid: Grid,
    *,
    label: str = "concentration",
    limits: tuple[float, float] | None = None,
) -> None:
    """Draw images side by side: square magnified voxels, axes in millimetres, y upwards.

    Parameters
    ----------
    path : path
        Picture to write; the suffix chooses the format (.png, .pdf, .svg).
    panels : sequence of Panel
        Panels, from one to `MAX_PANELS`, with images on `grid`.
    grid : Grid
        Voxel grid of the images.
    label : str, optional
        Label of the colour bars.
    limits : tuple of float, optional
        Values of the first and last colour in all panels; by default each panel has its own, from the
        smaller of 0 and its minimum to its maximum.

    Raises
    ------
    InputError
        If there is no panel or too many, an image does not fit the grid, or the suffix is no known format.
    """
    if not 1 <= len(panels) <= MAX_PANELS:
        raise InputError(
            f"{len(panels)} images in one picture; expected 1 to {MAX_PANELS}; choose some frames"
        )
    for panel in panels:
        if panel.image.shape != grid.volume_shape:
            raise InputError(
                f"image {panel.title!r} has shape {panel.image.shape}; expected {grid.volume_shape}, the "
                "grid's volume"
            )
    figure = _draw(panels, grid, label, limits)
    suffix = Path(path).suffix.lstrip(".").lower()
    formats = figure.canvas.get_supported_filetypes()
    if suffix not in formats:
        raise InputError(f"{os.fspath(path)!r} has no known picture suffix; expected .png, .pdf or .svg")
    figure.savefig(path, dpi=DOTS_PER_INCH, format=suffix)


def _draw(panels: Sequence[Panel], grid: Grid, label: str, limits: tuple[float, float] | None) -> Figure:
    # Places are computed here: matplotlib's own layout takes a quarter of a second per panel.
    columns = min(len(panels), MAX_COLUMNS)
    rows = math.ceil(len(panels) / columns)
    scale = IMAGE_SIDE / max(grid.field_of_view[:2])
    width, height = (scale * extent for extent in grid.field_of_view[:2])
    cell_width, cell_height = LEFT + width + RIGHT, BOTTOM + height + TOP
    total = np.array([columns * cell_width, rows * cell_height])
    figure = Figure(figsize=tuple(total))
    FigureCanvasAgg(figure)

    def place(left: float, bottom: float, right: float, top: float) -> Axes:
        corner, size = np.array([left, bottom]), np.array([right - left, top - bottom])
        return figure.add_axes((*(corner / total), *(size / total)))

    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        left, bottom = column * cell_width + LEFT, (rows - 1 - row) * cell_height + BOTTOM
        right, top = left + width, bottom + height
        axis = place(left, bottom, right, top)
        bar = place(right + BAR_GAP, bottom, right + BAR_GAP + BAR_WIDTH, top)
        shown = _show(axis, panel, grid, limits)
        figure.colorbar(shown, cax=bar)
        bar.set_ylabel(label, fontsize=8)
        bar.tick_params(labelsize=7)
    return figure


def _show(axis: Axes, panel: Panel, grid: Grid, limits: tuple[float, float] | None) -> AxesImage:
    image = panel.image.max(axis=0)
    low, high = limits or (min(0.0, float(image.min())), float(image.max()))
    shown = axis.imshow(
        image,
        origin="lower",
        extent=_extent_in_millimetres(grid),
        interpolation="nearest",
        cmap="inferno",
        vmin=low,
        vmax=high if high > low else low + 1.0,  # a zero image still needs a scale
    )
    slices = "" if grid.size[2] == 1 else " (largest along z)"
    axis.set_title(panel.title + slices, fontsize=9)
    axis.set_xlabel("x / mm", fontsize=8)
    axis.set_ylabel("y / mm", fontsize=8)
    axis.tick_params(labelsize=7)
    return shown


def _extent_in_millimetres(grid: Grid) -> tuple[float, float, float, float]:
    (x, y, _), (width, height, _) = grid.center, grid.field_of_view
    edges = (x - width / 2, x + width / 2, y - height / 2, y + height / 2)
    left, right, bottom, top = (1e3 * edge for edge in edges)
    return left, right, bottom, top
