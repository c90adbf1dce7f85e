"""Intervals beside the images of an MDF reconstruction.

MDF has no datasets for uncertainty; names that begin with an underscore are left to programs, and readers
that do not know them pass them over. The layout is that of `/reconstruction/data`.
"""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from engine.errors import MdfError
from engine.mpi.grid import Grid
from engine.mpi.mdf.safety import child
from engine.mpi.mdf.values import damage_reported

GROUP = "/reconstruction"
LOW, HIGH, COVERAGE = f"{GROUP}/_intervalLow", f"{GROUP}/_intervalHigh", f"{GROUP}/_intervalCoverage"


@dataclass(frozen=True, eq=False)
class ImageIntervals:
    """Bounds of the true concentrations of images.

    Attributes
    ----------
    low, high : ndarray of float32, shape (Q, Nz, Ny, Nx)
        Bounds in the unit of the images; NaN in all voxels of a frame that has no interval.
    coverage : float
        Share of the truth that lies inside, over images like those of the calibration.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    coverage: float


def add_intervals(path: str | Path, intervals: ImageIntervals, grid: Grid) -> None:
    """Write intervals into an MDF reconstruction that was just made, not a file that others may be reading.

    Parameters
    ----------
    path : path
        File that `write_mdf` wrote.
    intervals : ImageIntervals
        Bounds, one volume per image of the file.
    grid : Grid
        Grid of the volumes.

    Raises
    ------
    MdfError
        If the file holds no images, or others than these bounds are of.
    """
    with h5py.File(path, "r+") as file:
        shape = _images_shape(file, path)
        for name, volumes in ((LOW, intervals.low), (HIGH, intervals.high)):
            found = grid.to_vector(volumes).astype("<f4")[..., np.newaxis]
            if found.shape != shape:
                raise MdfError(
                    f"{path}: {name} has shape {found.shape}; expected {shape}, that of the images"
                )
            file.create_dataset(name, data=found)
        file.create_dataset(COVERAGE, data=np.float64(intervals.coverage))


def read_intervals(path: str | Path, grid: Grid) -> ImageIntervals | None:
    """Read the intervals of an MDF reconstruction; None if it has none.

    Parameters
    ----------
    path : path
        An MDF reconstruction.
    grid : Grid
        Grid of its images (`engine.mpi.mdf.grids.reconstruction_grid`).

    Raises
    ------
    MdfError
        If one of the datasets is missing, or they do not fit the images.
    """
    with damage_reported(str(path)), h5py.File(path, "r") as file:
        shape = _images_shape(file, path)
        there = [name for name in (LOW, HIGH, COVERAGE) if name in file]
        if not there:
            return None
        if len(there) < 3:
            raise MdfError(f"{path} holds only {', '.join(there)} of an interval; reconstruct it again")
        group = file[GROUP]
        found = [child(group, name.rpartition("/")[2]) for name in there]
        if not all(isinstance(item, h5py.Dataset) for item in found):
            raise MdfError(
                f"{path}: an interval is no dataset; expected {', '.join(there)}; reconstruct it again"
            )
        low, high, coverage = (item[()] for item in found)
    if low.shape != shape or high.shape != shape or np.shape(coverage) != ():
        raise MdfError(
            f"{path}: intervals have shapes {low.shape} and {high.shape}; expected {shape}, that of the "
            "images; reconstruct it again"
        )
    lower, upper = (grid.to_volume(bound[..., 0].astype(np.float32)) for bound in (low, high))
    return ImageIntervals(lower, upper, float(coverage))


def _images_shape(file: h5py.File, path: str | Path) -> tuple[int, ...]:
    data = file.get(f"{GROUP}/data")
    if not isinstance(data, h5py.Dataset):
        raise MdfError(f"{path} has no {GROUP}/data; expected images; pass a reconstruction file")
    shape: tuple[int, ...] = data.shape
    return shape
