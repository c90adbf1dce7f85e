"""The command `engine recon --follow`: images of a measurement while it is being written."""

import json
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import click
import h5py

from engine.errors import InputError, NonFiniteError
from engine.live.recording.contents import REPORT, image_content, image_row
from engine.live.recording.finish import recover_recording
from engine.live.recording.follow import FollowedMeasurement
from engine.live.recording.growing_file import GrowingFile
from engine.measurement.background import RunningBackground
from engine.measurement.file_rows import NOTE_NO_BACKGROUND
from engine.measurement.frame_rows import FrameRows, whiten
from engine.mpi.mdf.spectra import measurement_of
from engine.reconstruction.reconstructor import Reconstruction, Reconstructor

CAPACITY = 1_000_000
"""Most images in one file: six hours at 46.4 frames/s. Those not written take no space."""


@dataclass
class FollowedCounts:
    """Counts of what became of the foreground frames."""

    images: int = 0
    converged: int = 0
    failed: int = 0

    def __str__(self) -> str:
        return f"{self.images} images, {self.converged} converged, {self.failed} frames failed"


def follow_measurement(
    measurement: Path, out: Path, reconstructor: Reconstructor, sigma: float | None, idle_s: float
) -> FollowedCounts:
    """Reconstruct frames as they come into a file, until it is complete or the keyboard ends it.

    The mean of the background frames seen so far is subtracted. A crash costs at most the image in the
    making: `engine recover OUT` makes a proper file of the rest.

    Raises
    ------
    InputError
        If OUT exists, or no image came about.
    MdfError, PairingError
        If the measurement cannot be used.
    """
    if out.exists():
        raise InputError(f"{out} exists; expected a new file with --follow, which writes to it at once")
    followed = FollowedMeasurement(measurement, reconstructor.operators, idle_s)
    coverage = None if reconstructor.intervals is None else reconstructor.intervals.coverage
    content = image_content(followed.header, reconstructor.operators.grid, coverage)
    file = GrowingFile(out, content.metadata, content.columns, content.extras, CAPACITY)
    counts = FollowedCounts()
    try:
        with suppress(KeyboardInterrupt):
            for index, found in _images(followed, reconstructor, sigma, counts):
                file.append(_row(index, found, has_bounds=coverage is not None))
                counts.images += 1
                counts.converged += found.report.converged
                if file.is_full:
                    click.echo(f"Warning: {out} is full; following ends", err=True)
                    break
    finally:
        file.close()
    if not counts.images:
        raise InputError(f"{measurement} gave no image; expected foreground frames within {idle_s:g} s")
    recover_recording(out)
    return counts


def write_reports(out: Path, head: dict[str, Any], target: TextIO) -> None:
    """Write the reports in a reconstruction as JSON, one by one, since there may be very many."""
    with h5py.File(out, "r") as handle:
        texts = handle[REPORT].asstr()
        target.write(
            json.dumps(head | {"frames": None}, indent=2, allow_nan=False).rpartition("null")[0] + "["
        )
        for index in range(len(texts)):
            target.write(("," if index else "") + "\n    " + texts[index])
        target.write("\n  ]\n}\n")


def _images(
    followed: FollowedMeasurement, reconstructor: Reconstructor, sigma: float | None, counts: FollowedCounts
) -> Iterator[tuple[int, Reconstruction]]:
    operators, header = reconstructor.operators, followed.header
    rows = FrameRows(operators, header.acquisition.receiver.data_conversion_factor)
    is_corrected = measurement_of(header).is_background_corrected
    background = RunningBackground(math.inf)  # as in the finished file, whose frames all count the same
    index = 0
    for frame in followed.frames():
        spectra = rows.spectra(frame)
        if frame.is_background:
            if not is_corrected:
                background.update(frame, spectra)
            continue
        if index == 0 and not (is_corrected or background.n_frames):
            click.echo(f"Note: {NOTE_NO_BACKGROUND}", err=True)
        if background.fits(frame):
            spectra = spectra - background.mean
        try:
            rows.require_frame(frame)
            whitened = whiten(rows.rows(frame, spectra), operators)
            yield index, reconstructor.reconstruct(whitened, sigma)
        except (InputError, NonFiniteError) as error:
            counts.failed += 1
            click.echo(f"Warning: frame {index}: {error}", err=True)
        index += 1


def _row(index: int, found: Reconstruction, *, has_bounds: bool) -> dict[str, Any]:
    bounds = None if found.interval is None else (found.interval.low, found.interval.high)
    return image_row(found.image, bounds, {"frame": index} | found.report.to_dict(), has_bounds=has_bounds)
