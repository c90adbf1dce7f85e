"""Ground truth of a simulated measurement, stored beside it as HDF5."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError
from engine.machine.atomic_write import atomic_path
from engine.mpi.grid import Grid

KIND = "deq-mpi-truth"
"""Root attribute `kind` of every truth file."""

SCHEMA = 1
"""Version of the layout that this module writes and reads."""


@dataclass(frozen=True)
class Truth:
    """Ground truth of a measurement: the images of what was in the scanner.

    Attributes
    ----------
    images : ndarray of float32, shape (F, Nz, Ny, Nx)
        Concentration in multiples of the calibration sample's.
    snr_db : ndarray of float64, shape (F,)
        SNR of each frame (Eq. 36).
    grid : Grid
        Voxel grid of the images.
    """

    images: NDArray[np.float32]
    snr_db: NDArray[np.float64]
    grid: Grid


def save_truth(path: Path, truth: Truth) -> None:
    """Write a truth file (atomically)."""
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["kind"] = KIND
        file.attrs["schema"] = SCHEMA
        images = file.create_dataset("images", data=truth.images)
        images.attrs["unit"] = "multiples of the calibration sample's concentration"
        images.attrs["axes"] = "frame, z, y, x"
        file.create_dataset("snr_db", data=truth.snr_db)
        file.create_dataset("size", data=np.array(truth.grid.size))
        file.create_dataset("field_of_view", data=np.array(truth.grid.field_of_view))
        file.create_dataset("center", data=np.array(truth.grid.center))


def load_truth(path: Path) -> Truth:
    """Read a truth file.

    Raises
    ------
    InputError
        If the file is missing, not HDF5, of another kind or schema, or its images do not fit its grid.
    """
    try:
        with h5py.File(path, "r") as file:
            kind = file.attrs.get("kind")
            if kind != KIND:
                raise InputError(f"{path}: kind is {kind!r}, expected {KIND!r}; give a truth file")
            if (schema := file.attrs.get("schema")) != SCHEMA:
                raise InputError(
                    f"{path} has schema {schema}, this version reads schema {SCHEMA}; make it again with "
                    "engine simulate"
                )
            nx, ny, nz = (int(n) for n in file["size"][()])
            fx, fy, fz = (float(f) for f in file["field_of_view"][()])
            cx, cy, cz = (float(c) for c in file["center"][()])
            grid = Grid((nx, ny, nz), (fx, fy, fz), (cx, cy, cz))
            content = Truth(file["images"][()], file["snr_db"][()], grid)
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:  # what h5py raises on damage
        raise InputError(
            f"{path}: cannot be read as a truth file ({error}); make one with engine simulate"
        ) from None
    n_images = content.snr_db.size
    if n_images == 0 or content.images.shape != (n_images, *grid.volume_shape):
        raise InputError(
            f"{path}: images have shape {content.images.shape}; expected ({n_images}, "
            f"{', '.join(str(n) for n in grid.volume_shape)}) from the SNRs and the grid, at least one; "
            "make it again with engine simulate"
        )
    return content
