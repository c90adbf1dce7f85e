"""One live image as a file: PNG to look at, MDF and NIfTI to go on with."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError
from engine.live.recording.contents import REPORT
from engine.live.view.feed import ReceivedImage
from engine.mpi.grid import Grid
from engine.mpi.mdf import MdfFile, write_mdf
from engine.mpi.mdf.image_intervals import ImageIntervals, add_intervals
from engine.mpi.mdf.new_files import (
    new_acquisition,
    new_experiment,
    new_reconstruction_file,
    new_scanner,
    new_sine_drive,
    new_study,
)
from engine.mpi.mdf.new_metadata import new_uuid, utc_now

MILLIMETRES = 1e3
"""Millimetres per metre."""

MAX_TITLE = 34
"""Most characters that fit above a picture."""

SCANNER_COORDINATES = 1
"""NIfTI code: the affine gives positions in the scanner."""


def write_png(path: Path, image: ReceivedImage) -> None:
    """Draw the image and, with intervals, their half-width; volumes as their largest values along z."""
    from engine.reconstruction.pictures import Panel, save_pictures

    message = image.message
    title = f"frame {image.sequence}" + (f": {', '.join(image.flags)}" if image.flags else "")
    panels = [Panel(title if len(title) <= MAX_TITLE else f"{title[: MAX_TITLE - 1]}…", message.image)]
    if message.low is not None and message.high is not None:
        coverage = message.header["interval_coverage"]
        panels.append(Panel(f"half-width of {100 * coverage:g} % interval", (message.high - message.low) / 2))
    save_pictures(path, panels, image.grid)


def write_mdf_image(path: Path, image: ReceivedImage, source: MdfFile) -> None:
    """Write an MDF reconstruction of one image with its report, and with its intervals if it has them.

    Parameters
    ----------
    path : Path
        File to write.
    image : ReceivedImage
        The image.
    source : MdfFile
        File whose study, experiment, tracer, scanner and acquisition it gets.
    """
    message, grid = image.message, image.grid
    write_mdf(path, new_reconstruction_file(message.image[np.newaxis], grid, source))
    report = json.dumps(message.header["report"], allow_nan=False).encode()
    with h5py.File(path, "r+") as file:
        file.create_dataset(REPORT, data=np.array([report]))
    if message.low is not None and message.high is not None:
        bounds = ImageIntervals(
            message.low[np.newaxis], message.high[np.newaxis], float(message.header["interval_coverage"])
        )
        add_intervals(path, bounds, grid)


def write_nifti(path: Path, image: ReceivedImage) -> None:
    """Write a NIfTI-1 volume (Nx, Ny, Nz) of float32 with its place in the scanner.

    Raises
    ------
    InputError
        If nibabel is missing, or an axis is too long for NIfTI-1.
    """
    try:
        import nibabel
        from nibabel.spatialimages import HeaderDataError
    except ImportError as error:
        raise InputError("writing NIfTI needs nibabel; install the extra `live` (or nibabel)") from error
    affine = nifti_affine(image.grid)
    try:
        make: Any = nibabel.Nifti1Image  # the library has no types
        file = make(image.message.image.astype(np.float32).T, affine)
    except HeaderDataError as error:
        raise InputError(f"the grid {image.grid.size} does not fit NIfTI-1 ({error}); use MDF") from error
    file.header.set_xyzt_units("mm")
    file.set_qform(affine, SCANNER_COORDINATES)
    file.set_sform(affine, SCANNER_COORDINATES)
    file.header["descrip"] = f"DEQ-MPI frame {image.sequence} {' '.join(image.flags)}"[:79].encode(
        "ascii", "replace"
    )
    path.write_bytes(file.to_bytes())


def nifti_affine(grid: Grid) -> NDArray[np.float64]:
    """Return the matrix, float64 (4, 4), from voxel numbers (i, j, k, 1) to centres (x, y, z, 1) in mm."""
    affine = np.eye(4)
    for axis, (pitch, extent, center) in enumerate(
        zip(grid.pitch, grid.field_of_view, grid.center, strict=True)
    ):
        affine[axis, axis] = MILLIMETRES * pitch
        affine[axis, 3] = MILLIMETRES * (center - extent / 2 + pitch / 2)
    return affine


def unknown_origin() -> MdfFile:
    """Return metadata for images of unknown measurement: what MDF requires, and a note that says so."""
    return MdfFile(
        uuid=new_uuid(),
        time=utc_now(),
        study=new_study("live view", description="not known to the program that wrote this file"),
        experiment=replace(
            new_experiment("live snapshot", subject="n.a.", is_simulation=False),
            description="acquisition and drive field are placeholders (engine view without --metadata)",
        ),
        scanner=new_scanner("n.a.", topology="n.a."),
        acquisition=new_acquisition(
            bandwidth=1.0,
            n_samples=1,
            drivefield=new_sine_drive(1.0, [1], 0.0, waveform="custom"),
            unit="n.a.",
        ),
    )
