"""Pictures: voxels where they belong, and errors for what cannot be drawn."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread

from engine.errors import InputError
from engine.mpi.grid import Grid
from engine.reconstruction.pictures import MAX_PANELS, Panel, _draw, save_pictures

GRID = Grid((4, 3, 1), (0.040, 0.030, 0.002), (0.010, 0.0, 0.0))
IMAGE = np.arange(12, dtype=np.float32).reshape(1, 3, 4)


def test_axes_are_millimetres_and_voxels_square() -> None:
    axis = _draw([Panel("one", IMAGE)], GRID, "c", None).axes[0]
    shown = axis.get_images()[0]
    assert shown.get_extent() == pytest.approx([-10, 30, -15, 15])
    assert shown.origin == "lower"
    assert shown.get_interpolation() == "nearest"
    assert axis.get_aspect() == 1
    np.testing.assert_array_equal(shown.get_array(), IMAGE[0])
    assert axis.get_title() == "one"


def test_limits_are_shared_or_own() -> None:
    panels = [Panel("a", IMAGE), Panel("b", 10 * IMAGE), Panel("zero", 0 * IMAGE), Panel("neg", IMAGE - 5)]
    own = [axis.get_images()[0].get_clim() for axis in _draw(panels, GRID, "c", None).axes[::2]]
    assert own == [(0, 11), (0, 110), (0, 1), (-5, 6)]
    shared = [axis.get_images()[0].get_clim() for axis in _draw(panels, GRID, "c", (0.0, 7.0)).axes[::2]]
    assert shared == [(0, 7)] * 4


def test_slices_are_projected_and_named() -> None:
    grid = replace(GRID, size=(4, 3, 2))
    volume = np.concatenate([IMAGE, 11 - IMAGE])
    axis = _draw([Panel("v", volume)], grid, "c", None).axes[0]
    np.testing.assert_array_equal(axis.get_images()[0].get_array(), np.maximum(IMAGE[0], 11 - IMAGE[0]))
    assert axis.get_title() == "v (largest along z)"


@pytest.mark.parametrize("count", [1, 5])
def test_a_picture_is_written(tmp_path, count) -> None:
    save_pictures(tmp_path / "images.png", [Panel(str(i), IMAGE) for i in range(count)], GRID)
    pixels = imread(tmp_path / "images.png")
    assert pixels.shape[1] > 4 * 50  # voxels are magnified
    colours = np.unique(np.rint(255 * pixels[..., :3]) @ [1, 256, 65536])
    assert len(colours) > 12  # one per voxel, and those of the colour bar


def test_what_cannot_be_drawn(tmp_path) -> None:
    panel = Panel("image", IMAGE)
    with pytest.raises(InputError, match="0 images"):
        save_pictures(tmp_path / "a.png", [], GRID)
    with pytest.raises(InputError, match="choose some frames"):
        save_pictures(tmp_path / "a.png", [panel] * (MAX_PANELS + 1), GRID)
    with pytest.raises(InputError, match=r"shape \(3, 4\)"):
        save_pictures(tmp_path / "a.png", [Panel("flat", IMAGE[0])], GRID)
    with pytest.raises(InputError, match="suffix"):
        save_pictures(tmp_path / "a.xyz", [panel], GRID)
    assert list(tmp_path.iterdir()) == []
