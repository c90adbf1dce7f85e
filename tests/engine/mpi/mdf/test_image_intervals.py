"""Intervals beside the images of an MDF file, as other readers find them."""

import h5py
import numpy as np
import pytest

from engine.errors import MdfError
from engine.mpi.grid import Grid
from engine.mpi.mdf import read_mdf, write_mdf
from engine.mpi.mdf.grids import images
from engine.mpi.mdf.image_intervals import ImageIntervals, add_intervals, read_intervals
from engine.mpi.mdf.new_files import (
    new_acquisition,
    new_measurement_file,
    new_reconstruction_file,
    new_sine_drive,
)

GRID = Grid((4, 3, 2), (0.008, 0.006, 0.004))


@pytest.fixture
def volumes() -> np.ndarray:
    return np.random.default_rng(1).uniform(1, 2, (2, *GRID.volume_shape)).astype(np.float32)


@pytest.fixture
def path(tmp_path, volumes):
    """A reconstruction of two frames."""
    acquisition = new_acquisition(
        bandwidth=1e4,
        n_samples=10,
        n_periods=1,
        n_channels=1,
        drivefield=new_sine_drive(10e3, (1,), 1e-4, n_periods=1),
    )
    source = new_measurement_file(np.zeros((2, 1, 1, 10)), acquisition=acquisition)
    write_mdf(tmp_path / "out.mdf", new_reconstruction_file(volumes, GRID, source))
    return tmp_path / "out.mdf"


def test_bounds_have_the_layout_of_the_images(path, volumes) -> None:
    low, high = volumes - 0.5, volumes + 0.25
    high[1] = np.nan
    add_intervals(path, ImageIntervals(low, high, 0.9), GRID)
    with h5py.File(path) as file:
        group = file["reconstruction"]
        assert group["_intervalLow"].dtype == np.dtype("<f4")
        np.testing.assert_array_equal(group["_intervalLow"][()], group["data"][()] - np.float32(0.5))
        assert group["_intervalHigh"].shape == group["data"].shape == (2, 24, 1)
        assert group["_intervalCoverage"][()] == 0.9
        # x runs fastest: voxel (x, y, z) = (1, 2, 1) of the first frame
        assert group["_intervalHigh"][0, 1 + 4 * (2 + 3 * 1), 0] == high[0, 1, 2, 1]
    found = read_intervals(path, GRID)
    assert found is not None
    np.testing.assert_array_equal(found.low, low)
    np.testing.assert_array_equal(found.high, high)
    assert found.coverage == 0.9
    np.testing.assert_array_equal(images(read_mdf(path))[:, 0], volumes)  # the file stays a valid MDF


def test_a_file_without_intervals_has_none(path) -> None:
    assert read_intervals(path, GRID) is None


def test_bounds_of_other_images_are_refused(path, volumes) -> None:
    with pytest.raises(MdfError, match=r"_intervalLow .*\(1, 24, 1\); .*\(2, 24, 1\)"):
        add_intervals(path, ImageIntervals(volumes[:1], volumes[:1], 0.9), GRID)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda group: group.__delitem__("_intervalHigh"), "holds only /reconstruction/_intervalLow, "),
        (lambda group: group["data"].file.move("reconstruction/data", "x"), "has no /reconstruction/data"),
    ],
)
def test_damage_is_found(path, volumes, damage, text) -> None:
    add_intervals(path, ImageIntervals(volumes, volumes, 0.9), GRID)
    with h5py.File(path, "r+") as file:
        damage(file["reconstruction"])
    with pytest.raises(MdfError, match=text):
        read_intervals(path, GRID)


def test_bounds_of_another_shape_are_found(path, volumes) -> None:
    add_intervals(path, ImageIntervals(volumes, volumes, 0.9), GRID)
    with h5py.File(path, "r+") as file:
        del file["reconstruction/_intervalLow"]
        file["reconstruction/_intervalLow"] = np.zeros((2, 23, 1), np.float32)
    with pytest.raises(MdfError, match=r"\(2, 23, 1\) and \(2, 24, 1\); .*\(2, 24, 1\)"):
        read_intervals(path, GRID)
