"""The grids of an MDF file: the frame of each grid point, and images as volumes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import MdfError
from engine.mpi.grid import Grid
from engine.mpi.mdf.model import Calibration, MdfFile, Reconstruction
from engine.mpi.mdf.spectra import (
    background_mask,
    measurement_of,
    on_stored_bins,
    spectra,
)

POSITION_TOLERANCE = 1e-3
"""Largest distance, in voxel edges, of a stored position from its grid point (rounding of stored metres)."""


def calibration_of(file: MdfFile) -> Calibration:
    """Return the group /calibration; raise `MdfError` if there is none."""
    if file.calibration is None:
        raise MdfError("the file has no /calibration; expected a system matrix; pass a calibration file")
    return file.calibration


def reconstruction_of(file: MdfFile) -> Reconstruction:
    """Return the group /reconstruction; raise `MdfError` if there is none."""
    if file.reconstruction is None:
        raise MdfError("the file has no /reconstruction; expected images; pass a reconstruction file")
    return file.reconstruction


def grid_frames(file: MdfFile) -> NDArray[np.int64]:
    """Return which stored frame belongs to each grid point of a calibration, x fastest.

    Frames that were permuted are in grid order already. Frames in acquisition order follow the grid as well,
    unless the acquisition went back and forth along its lines (`is_meandering_grid`).

    Parameters
    ----------
    file : MdfFile
        File of a calibration.

    Returns
    -------
    ndarray of int64, shape (O,)
        Index into the frames of `spectra(file)`.

    Raises
    ------
    MdfError
        If the file is no calibration on a regular grid.
    """
    grid = calibration_grid(file)
    measurement, calibration = measurement_of(file), calibration_of(file)
    foreground = np.flatnonzero(~measurement.is_background_frame)
    if calibration.is_meandering_grid and not measurement.is_frame_permutation:
        in_grid_order = np.empty_like(foreground)
        in_grid_order[_meandering_points(grid)] = foreground
        return in_grid_order
    return foreground


def calibration_grid(file: MdfFile) -> Grid:
    """Return the grid of a calibration; without a stored centre, it is centred on the scanner.

    Raises
    ------
    MdfError
        If the file is no calibration, or its grid is incomplete, irregular or not x fastest.
    """
    grid = _grid("/calibration", calibration_of(file))
    n_foreground = int(np.count_nonzero(~background_mask(file)))
    if grid.n_voxels != n_foreground:
        raise MdfError(
            f"/calibration/size has {grid.n_voxels} points for {n_foreground} foreground frames; expected "
            "one frame per point, subsampled grids are not supported; use a full calibration"
        )
    return grid


def reconstruction_grid(file: MdfFile) -> Grid:
    """Return the grid of the images; without a stored centre, it is centred on the scanner.

    Raises
    ------
    MdfError
        If the file holds no images, or their grid is incomplete, irregular or not x fastest.
    """
    grid, data = _grid("/reconstruction", reconstruction_of(file)), reconstruction_of(file).data
    if grid.n_voxels != data.shape[1]:
        raise MdfError(
            f"/reconstruction/size has {grid.n_voxels} points for {data.shape[1]} voxels; expected as many; "
            "correct the file"
        )
    return grid


def images(file: MdfFile) -> NDArray[Any]:
    """Return the reconstructed images.

    Parameters
    ----------
    file : MdfFile
        File of a reconstruction.

    Returns
    -------
    ndarray, shape (Q, S, Nz, Ny, Nx)
        Frames and image channels, in the floating-point type of the file; integers become float64.

    Raises
    ------
    MdfError
        If the file holds no images, complex ones, or no regular grid for them.
    """
    grid, data = reconstruction_grid(file), reconstruction_of(file).data
    if data.dtype.names is not None or np.iscomplexobj(data):
        raise MdfError(
            "/reconstruction/data is complex; expected real images; store magnitudes or real parts"
        )
    vectors = np.moveaxis(data, -1, 1).astype(np.result_type(data.dtype, np.float32))
    return grid.to_volume(vectors)


def _meandering_points(grid: Grid) -> NDArray[np.int64]:
    """Return the grid index, int64 (O,), at each step of a walk that turns around at each line's end."""
    points = np.arange(grid.n_voxels, dtype=np.int64).reshape(grid.volume_shape)
    path = points.copy()
    path[1::2] = path[1::2, ::-1]
    lines = path.reshape(-1, grid.size[0])
    lines[1::2] = lines[1::2, ::-1]
    return lines.ravel()


def _grid(group: str, node: Calibration | Reconstruction) -> Grid:
    if node.size is None or node.field_of_view is None:
        missing = "size" if node.size is None else "fieldOfView"
        raise MdfError(
            f"{group}/{missing} is missing; expected a regular grid with size and fieldOfView; "
            "complete the file"
        )
    if node.order != "xyz":
        raise MdfError(
            f"{group}/order is {node.order!r}; expected 'xyz', other orders are not supported; "
            "re-order the data"
        )
    center = np.zeros(3) if node.field_of_view_center is None else node.field_of_view_center
    nx, ny, nz = (int(count) for count in node.size)
    width, height, depth = (float(length) for length in node.field_of_view)
    x, y, z = (float(coordinate) for coordinate in center)
    grid = Grid((nx, ny, nz), (width, height, depth), (x, y, z))
    _check_positions(group, node.positions, grid)
    return grid


def _check_positions(group: str, positions: NDArray[np.float64] | None, grid: Grid) -> None:
    if positions is None:
        return
    regular = positions.shape == (grid.n_voxels, 3) and bool(
        np.all(np.abs(positions - grid.positions()) <= POSITION_TOLERANCE * np.array(grid.pitch))
    )
    if not regular:
        raise MdfError(
            f"{group}/positions differ from the grid of size and fieldOfView; expected the same points, x "
            "fastest, irregular grids are not supported; use a regular grid"
        )


def calibration_spectra(
    file: MdfFile, keep_bins: NDArray[np.int64] | None = None
) -> NDArray[np.complexfloating]:
    """Return the foreground spectra of a calibration in grid order, complex (O, J, C, K); see `spectra`."""
    return spectra(file, keep_bins)[grid_frames(file)]


def calibration_snr(file: MdfFile) -> NDArray[np.float64] | None:
    """Return the stored signal-to-noise ratio on the stored bins, float64 (J, C, K), or None."""
    snr = calibration_of(file).snr
    return None if snr is None else on_stored_bins(file, snr)
