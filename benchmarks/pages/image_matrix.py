"""Pictures of many images in rows and columns: reconstructions beside their error maps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

WIDTH = 1.9
"""Inches of a column."""

GAP, CAPTION = 0.1, 0.2
"""Inches between columns, and above an image for its caption."""

LABELS, HEADINGS, BAR = 1.9, 0.35, 0.55
"""Inches of the row labels, the column headings and the colour bars below."""

BAR_HEIGHT = 0.1

IMAGE_COLOURS, ERROR_COLOURS = "inferno", "RdBu_r"


@dataclass(frozen=True)
class Column:
    """Images of one kind, one below the other, with one colour scale.

    Attributes
    ----------
    title : str
        Above the column.
    images : sequence of ndarray or None
        One (Ny, Nx) per row of the picture, y upwards; None leaves the place empty.
    captions : sequence of str
        Above each image.
    limits : tuple of float
        Values of the first and the last colour; values beyond have the colour of the nearest.
    colours : str
        A matplotlib colour map.
    """

    title: str
    images: Sequence[NDArray[np.floating] | None]
    captions: Sequence[str]
    limits: tuple[float, float]
    colours: str = IMAGE_COLOURS


def draw_matrix(columns: Sequence[Column], row_labels: Sequence[str], aspect: float) -> Figure:
    """Draw columns of images side by side.

    Parameters
    ----------
    columns : sequence of Column
        Each with as many images as there are row labels.
    row_labels : sequence of str
        On the left.
    aspect : float
        Height over width of the field of view.

    Returns
    -------
    Figure
    """
    # Places are computed here: matplotlib's own layout takes a quarter of a second per image.
    height = WIDTH * aspect
    total_width = LABELS + len(columns) * (WIDTH + GAP) + GAP
    total_height = HEADINGS + len(row_labels) * (height + CAPTION) + BAR
    figure = Figure(figsize=(total_width, total_height))
    FigureCanvasAgg(figure)

    def place(left: float, bottom: float, width: float, height: float) -> Axes:
        return figure.add_axes(
            (left / total_width, bottom / total_height, width / total_width, height / total_height)
        )

    for row, label in enumerate(row_labels):
        middle = BAR + (len(row_labels) - 1 - row) * (height + CAPTION) + height / 2
        figure.text(
            (LABELS - GAP) / total_width, middle / total_height, label, ha="right", va="center", fontsize=9
        )
    for number, column in enumerate(columns):
        left = LABELS + number * (WIDTH + GAP)
        centre = (left + WIDTH / 2) / total_width
        figure.text(centre, 1 - 0.5 * HEADINGS / total_height, column.title, ha="center", va="center")
        shown = None
        for row, (image, caption) in enumerate(zip(column.images, column.captions, strict=True)):
            if image is None:
                continue
            axes = place(left, BAR + (len(row_labels) - 1 - row) * (height + CAPTION), WIDTH, height)
            low, high = column.limits
            shown = axes.imshow(
                image, origin="lower", cmap=column.colours, vmin=low, vmax=high, aspect="auto",
                interpolation="nearest",
            )  # fmt: skip
            axes.set(xticks=(), yticks=())
            axes.set_title(caption, fontsize=8, pad=2)
        if shown is not None:
            bar = place(left + 0.1 * WIDTH, BAR - 0.1 - BAR_HEIGHT, 0.8 * WIDTH, BAR_HEIGHT)
            figure.colorbar(shown, cax=bar, orientation="horizontal")
            bar.tick_params(labelsize=7)
    return figure


def comparison(
    title: str,
    truth: NDArray[np.floating],
    images: Sequence[NDArray[np.floating] | None],
    captions: Sequence[str],
    error_limit: float,
) -> list[Column]:
    """Return two columns: the truth with reconstructions below it, and their errors.

    Parameters
    ----------
    title : str
        Above the images.
    truth : ndarray, shape (Ny, Nx)
    images : sequence of ndarray or None
        Reconstructions, one per row after the truth's.
    captions : sequence of str
        One per reconstruction.
    error_limit : float
        Largest error with a colour of its own, relative to the peak of the truth.
    """
    peak = float(truth.max())
    errors = [None if image is None else image - truth for image in images]
    limit = error_limit * peak
    return [
        Column(title, [truth, *images], ["", *captions], (0.0, peak)),
        Column("error", [None, *errors], [""] * (1 + len(errors)), (-limit, limit), ERROR_COLOURS),
    ]
