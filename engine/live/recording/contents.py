"""Contents of the files of a recording: metadata of a template, and one row per frame or image."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import MdfError, PairingError
from engine.live.recording.growing_file import Column
from engine.live.wire.messages import ImageMessage
from engine.live.wire.strict_json import MAX_HEADER
from engine.measurement.file_rows import BANDWIDTH_TOLERANCE
from engine.measurement.raw_frame import RawFrame
from engine.mpi.grid import Grid
from engine.mpi.mdf import MdfFile, read_mdf
from engine.mpi.mdf.image_intervals import COVERAGE, HIGH, LOW
from engine.mpi.mdf.new_files import new_measurement_file, new_reconstruction_file
from engine.mpi.mdf.new_metadata import utc_now
from engine.mpi.mdf.spectra import bins
from engine.mpi.row_layout import Acquisition

SEQUENCE, ACQUIRED, RECEIVED = (
    "/measurement/_sequence",
    "/measurement/_acquiredNs",
    "/measurement/_receivedNs",
)
STREAM = "/measurement/_stream"
REPORT = "/reconstruction/_report"

NO_TIME = -1
"""Value that stands for a time stamp that the producer did not give."""

REPORT_BYTES = MAX_HEADER
"""Length of the longest report; the part of a row that is not used takes no space."""

IMAGES = "/reconstruction/data"
FRAMES, BACKGROUND = "/measurement/data", "/measurement/isBackgroundFrame"


@dataclass(frozen=True, eq=False)
class FileContent:
    """Everything that is needed to begin a file.

    Attributes
    ----------
    metadata : MdfFile
        Metadata with the data of one frame.
    columns : tuple of Column
        Columns of what each frame brings.
    extras : dict
        Datasets by path that the file has besides.
    """

    metadata: MdfFile
    columns: tuple[Column, ...]
    extras: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Template:
    """Metadata of the scanner for new files.

    Attributes
    ----------
    file : MdfFile
        File without data.
    acquisition : Acquisition
        Settings that all frames share with the operators.
    """

    file: MdfFile
    acquisition: Acquisition


def load_template(path: Path, acquisition: Acquisition) -> Template:
    """Read the metadata of an MDF file.

    Raises
    ------
    MdfError
        If the file cannot be read.
    PairingError
        If it is of another scanner setting than the operators.
    """
    file = read_mdf(path)
    receiver = file.acquisition.receiver
    pairs = {
        "samples per period": (receiver.num_sampling_points, acquisition.n_samples),
        "periods per frame": (file.acquisition.num_periods_per_frame, acquisition.n_periods),
        "receive channels": (receiver.num_channels, acquisition.n_channels),
        "unit": (receiver.unit, acquisition.unit),
    }
    for what, (found, expected) in pairs.items():
        if found != expected:
            raise PairingError(
                f"{path}: {what}: {found}; expected {expected} as in the operators; take an MDF file of the "
                "same scanner setting as template"
            )
    if not math.isclose(receiver.bandwidth, acquisition.bandwidth, rel_tol=BANDWIDTH_TOLERANCE):
        raise PairingError(
            f"{path}: bandwidth: {receiver.bandwidth} Hz; expected {acquisition.bandwidth} Hz as in the "
            "operators; take an MDF file of the same scanner setting as template"
        )
    return Template(replace(_cut_to_full_axis(file), measurement=None, calibration=None), acquisition)


def frame_content(template: Template, frame: RawFrame) -> FileContent:
    """Return the content of a file of frames like this one.

    Raises
    ------
    MdfError
        If the frame has other periods, channels, samples or bins than the scanner, or values that are not
        finite.
    """
    file, acquisition = template.file, template.acquisition
    selected = _selected_bins(frame, acquisition)
    receiver = file.acquisition.receiver
    if frame.data.dtype.kind != "i":
        # Floating-point frames are in the unit of the calibration; the factor is that of raw counts.
        receiver = replace(receiver, data_conversion_factor=None)
    if receiver.transfer_function is not None and selected is not None:
        receiver = replace(receiver, transfer_function=receiver.transfer_function[:, selected])
    metadata = new_measurement_file(
        frame.data[np.newaxis],
        acquisition=replace(file.acquisition, receiver=receiver, start_time=utc_now()),
        bins=selected,
        study=file.study,
        experiment=file.experiment,
        scanner=file.scanner,
        tracer=file.tracer,
    )
    if metadata.measurement is None:  # never; the type allows it
        raise MdfError("the new file holds no measurement; expected one")
    measurement = replace(
        metadata.measurement, is_transfer_function_corrected=acquisition.is_transfer_function_corrected
    )
    columns = (
        Column(FRAMES, frame.data.dtype.newbyteorder("<"), frame.data.shape),
        Column(BACKGROUND, np.dtype("<i1")),
        *(Column(name, np.dtype("<i8")) for name in (SEQUENCE, ACQUIRED, RECEIVED)),
    )
    return FileContent(replace(metadata, measurement=measurement), columns, {STREAM: frame.stream})


def frame_row(frame: RawFrame, received_ns: int) -> dict[str, Any]:
    """Return the row that a frame adds to its file, by column."""
    return {
        FRAMES: frame.data,
        BACKGROUND: frame.is_background,
        SEQUENCE: frame.sequence,
        ACQUIRED: NO_TIME if frame.acquired_ns is None else frame.acquired_ns,
        RECEIVED: received_ns,
    }


def image_content(metadata: MdfFile, grid: Grid, coverage: float | None) -> FileContent:
    """Return the content of a file of images, with intervals if a coverage is given."""
    zero = np.zeros((1, *grid.volume_shape), np.float32)
    names = (IMAGES,) if coverage is None else (IMAGES, LOW, HIGH)
    columns = (
        *(Column(name, np.dtype("<f4"), (grid.n_voxels, 1)) for name in names),
        Column(REPORT, np.dtype(f"S{REPORT_BYTES}")),
    )
    extras: dict[str, Any] = {} if coverage is None else {COVERAGE: np.float64(coverage)}
    return FileContent(new_reconstruction_file(zero, grid, metadata), columns, extras)


def image_row(
    image: np.ndarray[Any, Any],
    bounds: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None,
    report: dict[str, Any],
    *,
    has_bounds: bool,
) -> dict[str, Any]:
    """Return the row that an image, float32 (Nz, Ny, Nx), adds to its file.

    Its bounds have the same shape and type; those that a file has and an image has not are NaN.
    """
    row: dict[str, Any] = {IMAGES: image.reshape(-1, 1), REPORT: report_text(report)}
    if has_bounds:
        nothing = np.full_like(image, np.nan)
        low, high = (nothing, nothing) if bounds is None else bounds
        row |= {LOW: low.reshape(-1, 1), HIGH: high.reshape(-1, 1)}
    return row


def report_text(report: dict[str, Any]) -> str:
    """Return a report as JSON of at most `REPORT_BYTES`; one that is longer goes without its residuals."""
    text = json.dumps(report, allow_nan=False)
    if len(text) > REPORT_BYTES:
        text = json.dumps(report | {"residuals": []}, allow_nan=False)
    return text


def message_grid(message: ImageMessage) -> Grid:
    """Return the grid that the header of an image states."""
    stated = message.header["grid"]
    return Grid(*(tuple(stated[key]) for key in ("size", "field_of_view", "center")))


def _selected_bins(frame: RawFrame, acquisition: Acquisition) -> np.ndarray[Any, np.dtype[np.int64]] | None:
    if frame.data.dtype.kind != "c":
        return None
    if frame.bins is not None:
        return frame.bins
    return None if frame.data.shape[-1] == acquisition.n_samples // 2 + 1 else acquisition.bins


def _cut_to_full_axis(file: MdfFile) -> MdfFile:
    """Leave out a transfer function that is known on some bins only: frames may have others."""
    receiver = file.acquisition.receiver
    function = receiver.transfer_function
    if function is None:
        return file
    n_full = receiver.num_sampling_points // 2 + 1
    stored = np.arange(n_full) if file.measurement is None else bins(file)
    if function.shape[1] != n_full or (len(stored) == n_full and np.any(stored != np.arange(n_full))):
        receiver = replace(receiver, transfer_function=None)
    return replace(file, acquisition=replace(file.acquisition, receiver=receiver))
