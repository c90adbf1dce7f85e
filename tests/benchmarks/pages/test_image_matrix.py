"""Drawn phantoms have the sizes of the paper's; pictures show every image on its scale."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from benchmarks.pages.image_matrix import comparison, draw_matrix
from benchmarks.scans.drawn_phantoms import (
    ARM_LENGTH,
    ARM_SPACING,
    ARM_WIDTH,
    STEM_LENGTH,
    TUBE_GAP,
    TUBE_LENGTH,
    TUBE_RADIUS,
    two_tubes,
    y_shape,
)
from engine.mpi.grid import Grid
from engine.mpi.simulation.scanner import PRESETS

GRID = PRESETS["reference-0.5"].grid
FINE = GRID.refined(8)

AREA = 0.01
"""Relative error of areas drawn with 8 x 8 points in a voxel of a quarter millimetre."""


def area(image: np.ndarray, grid: Grid) -> float:
    return float(image.sum() * grid.pitch[0] * grid.pitch[1])


def test_the_tubes_have_their_area_gap_and_symmetry() -> None:
    image = two_tubes(FINE)
    assert_allclose(area(image, FINE), 2 * TUBE_LENGTH * 2 * TUBE_RADIUS, rtol=AREA)
    assert_allclose(image, image[::-1, ::-1])
    column = image[:, FINE.size[0] // 2]
    lit = np.flatnonzero(column > 0.5)
    gap = np.diff(lit).max() - 1
    assert gap * FINE.pitch[1] == pytest.approx(TUBE_GAP, abs=FINE.pitch[1])


def test_a_coarse_grid_holds_shares_of_the_fine_one() -> None:
    for draw in (two_tubes, y_shape):
        assert_allclose(area(draw(GRID), GRID), area(draw(FINE), FINE), rtol=AREA)
        assert draw(GRID).max() <= 1.0


def test_the_y_has_its_lengths() -> None:
    image = y_shape(FINE)
    assert_allclose(image, image[::-1], atol=1e-6)
    # Three bars, less where the arms cover each other and the stem near the fork.
    bars = (2 * ARM_LENGTH + STEM_LENGTH) * ARM_WIDTH
    assert 0.75 * bars < area(image, FINE) < bars
    stem = image[FINE.size[1] // 2] > 0.5
    across = (image > 0.5).sum(axis=0) * FINE.pitch[1]
    first = np.flatnonzero(stem)[0]
    assert across[first + 4] == pytest.approx(ARM_WIDTH, abs=2 * FINE.pitch[1])
    columns = np.flatnonzero(image.max(axis=0) > 0.5)
    sine = (ARM_SPACING + ARM_WIDTH) / 2 / ARM_LENGTH  # of the arms' angle to the axis
    length = STEM_LENGTH + ARM_LENGTH * np.sqrt(1 - sine**2) + ARM_WIDTH / 2 * sine
    assert len(columns) * FINE.pitch[0] == pytest.approx(length, abs=2 * FINE.pitch[0])


def test_a_comparison_shows_truth_images_and_errors_on_their_scales() -> None:
    truth = np.full((4, 6), 2.0, np.float32)
    images = [truth + 0.1, None, truth - 0.3]
    columns = comparison("a", truth, images, ["1 dB", "", "3 dB"], error_limit=0.1)
    figure = draw_matrix(columns, ["truth", "first", "absent", "third"], aspect=4 / 6)
    shown = [axes.images[0] for axes in figure.axes if axes.images]
    pictures = [image for image in shown if image.get_array().shape == (4, 6)]
    assert [image.get_clim() for image in pictures] == [(0.0, 2.0)] * 3 + [(-0.2, 0.2)] * 2
    assert_allclose(pictures[3].get_array(), 0.1, rtol=1e-5)
    assert_allclose(pictures[4].get_array(), -0.3, rtol=1e-5)
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ["1 dB", "3 dB"]
    # Two images of one row stand on one height, and no image covers another.
    boxes = [image.axes.get_position() for image in pictures]
    assert boxes[1].y0 == pytest.approx(boxes[3].y0)
    assert boxes[0].y0 >= boxes[1].y1
    assert boxes[3].x0 >= boxes[1].x1
