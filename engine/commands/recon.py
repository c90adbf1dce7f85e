"""The command `engine recon`: from a measurement to images."""

import itertools
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from engine.commands.arguments import (
    FrameSelection,
    frame_list,
    parse_frames,
    parse_threads,
    parse_weights,
    require_distinct_files,
)
from engine.commands.recon_follow import follow_measurement, write_reports
from engine.fixed_point.solution import Result
from engine.machine.atomic_write import atomic_path
from engine.measurement.file_rows import measurement_rows
from engine.mpi.grid import Grid
from engine.mpi.mdf import read_mdf, write_mdf
from engine.mpi.mdf.image_intervals import ImageIntervals, add_intervals
from engine.mpi.mdf.new_files import new_reconstruction_file
from engine.networks.sessions import PROVIDER_NAMES
from engine.reconstruction.method_settings import MethodSettings
from engine.reconstruction.methods import choices
from engine.reconstruction.reconstructor import Reconstruction, Reconstructor
from engine.reconstruction.report import FrameReport

if TYPE_CHECKING:
    from engine.reconstruction.pictures import Panel

DEFAULT_IDLE_S = 10.0

ITERATED = (Result.CONVERGED, Result.MAX_ITERATIONS, Result.DEADLINE)
"""Results of solves that had a tolerance to reach."""


@click.command(short_help="Reconstruct images from a measurement.")
@click.argument("measurement", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--operators", type=click.Path(path_type=Path), required=True, help="Operators of the system matrix."
)
@click.option(
    "--method", metavar="NAME", help=f"How to reconstruct: {choices()}.  [that of --model, else deq]"
)
@click.option("--model", type=click.Path(path_type=Path), help="Bundle folder or shipped name.  [reference]")
@click.option(
    "--solver",
    type=click.Choice(["anderson", "plain"]),
    help="How to iterate (deq, deq-ball).  [the bundle's choice]",
)
@click.option(
    "--max-iterations", type=int, metavar="N", help="Iterations or sweeps at most.  [from bundle or weights]"
)
@click.option("--tolerance", type=float, help="Relative residual to reach.  [from the bundle]")
@click.option(
    "--weights",
    "weights_file",
    type=click.Path(path_type=Path),
    help="Hand-set weights by SNR, from engine tune.  [those that ship]",
)
@click.option(
    "--weight",
    "weights",
    multiple=True,
    callback=parse_weights,
    metavar="NAME=VALUE",
    help="One hand-set weight for every SNR, such as tv=0.02; may be repeated.",
)
@click.option(
    "--row-order",
    type=click.Choice(["sequential", "shuffled", "random"]),
    help="Order of the rows in ART.  [shuffled]",
)
@click.option(
    "--row-weighting",
    type=click.Choice(["none", "l2"]),
    help="Rows of ART as they are, or all of norm 1.  [none]",
)
@click.option("--sigma", type=float, help="Noise per row in units of the calibration's.  [estimated]")
@click.option(
    "--frames",
    callback=parse_frames,
    metavar="FRAMES",
    help="Foreground frames, 0-based: 3, 0:8 or 0,4,7:9.  [all]",
)
@click.option(
    "--provider",
    type=click.Choice(PROVIDER_NAMES),
    help="Where the networks run.  [cpu]",
)
@click.option(
    "--threads",
    type=click.Choice(["1", "2", "auto"]),
    callback=parse_threads,
    help="Cores that work on a frame, or whichever measures faster.  [1]",
)
@click.option(
    "--warm-start",
    is_flag=True,
    default=None,
    help="Take the frames for a sequence in time: each starts from the one before, with fewer evaluations.",
)
@click.option(
    "--intervals/--no-intervals",
    "wanted",
    default=None,
    help="Bounds of the true values beside the images.  [if the bundle has them]",
)
@click.option("--image", type=click.Path(path_type=Path), help="Also draw the images (.png, .pdf, .svg).")
@click.option(
    "--stats", type=click.Path(path_type=Path), help="Also write the report of every frame as JSON."
)
@click.option(
    "--follow", is_flag=True, help="Reconstruct the frames of a file that is being written as they come."
)
@click.option(
    "--idle",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="With --follow: the file is complete when nothing came for so long.  [10]",
)
def recon(
    measurement: Path,
    out: Path,
    operators: Path,
    method: str | None,
    sigma: float | None,
    frames: FrameSelection | None,
    wanted: bool | None,
    image: Path | None,
    stats: Path | None,
    follow: bool,
    idle: float | None,
    **settings: Any,
) -> None:
    """Reconstruct the foreground frames of the MDF file MEASUREMENT and write them to the MDF file OUT.

    Example: engine recon scan/measurement.mdf image.mdf --operators operators.h5 --image image.png
    """
    _require_consistent(follow, idle, frames, image)
    outputs = [path for path in (out, image, stats) if path is not None]
    require_distinct_files([measurement, operators], outputs)
    with ExitStack() as stack:
        # Targets are checked before the work, and renamed together after all of them were written.
        staged = {
            path: stack.enter_context(atomic_path(path)) for path in outputs if not (follow and path == out)
        }
        reconstructor = Reconstructor.load(operators, method, MethodSettings(**settings))
        _choose_intervals(reconstructor, wanted)
        record = {
            "kind": "deq-mpi-report",
            "schema": 3,
            "method": reconstructor.method,
            "measurement": str(measurement),
            "operators": str(operators),
            "model": None if reconstructor.bundle is None else reconstructor.bundle.manifest.name,
            "settings": dict(reconstructor.solver.settings),
        }
        if follow:
            idle_s = DEFAULT_IDLE_S if idle is None else idle
            counts = follow_measurement(measurement, out, reconstructor, sigma, idle_s)
            if stats:
                with staged[stats].open("w", encoding="utf-8") as target:
                    write_reports(out, record, target)
            click.echo(f"{reconstructor.method}: {counts}")
            click.echo(f"wrote {', '.join(str(path) for path in outputs)}")
            return
        source = read_mdf(measurement)
        rows = measurement_rows(source, reconstructor.operators)
        for note in rows.notes:
            click.echo(f"Note: {note}", err=True)
        chosen = frames.indices(len(rows.rows)) if frames else list(range(len(rows.rows)))
        found = reconstructor.reconstruct_frames(rows.rows[chosen], sigma)
        grid = reconstructor.operators.grid
        volumes = np.stack([frame.image for frame in found])
        write_mdf(staged[out], new_reconstruction_file(volumes, grid, source))
        if reconstructor.intervals is not None:
            bounds = _bounds(found, reconstructor.intervals.coverage)
            add_intervals(staged[out], bounds, grid)
        if image:
            _draw(staged[image], found, chosen, grid)
        if stats:
            record |= {
                "background_sigma": rows.background_sigma,
                "frames": [
                    {"frame": index} | frame.report.to_dict()
                    for index, frame in zip(chosen, found, strict=True)
                ],
            }
            staged[stats].write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", "utf-8")
    _summarise(reconstructor.method, chosen, [frame.report for frame in found])
    click.echo(f"wrote {', '.join(str(path) for path in outputs)}")


def _require_consistent(
    follow: bool, idle: float | None, frames: FrameSelection | None, image: Path | None
) -> None:
    if follow and (frames is not None or image is not None):
        raise click.UsageError(
            "--follow reconstructs all frames and draws none; leave --frames and --image out"
        )
    if idle is not None and not follow:
        raise click.UsageError("--idle has a meaning with --follow only")


def _choose_intervals(reconstructor: Reconstructor, wanted: bool | None) -> None:
    if wanted:
        reconstructor.require_intervals()
    elif wanted is False:
        reconstructor.intervals = None
    elif found := reconstructor.without_intervals_because:
        click.echo(f"Note: no intervals are written, since the images are made with {found}", err=True)


def _bounds(found: Sequence[Reconstruction], coverage: float) -> ImageIntervals:
    """Gather the intervals of all frames; a frame without has NaN."""
    nothing = np.full_like(found[0].image, np.nan)
    return ImageIntervals(
        np.stack([nothing if frame.interval is None else frame.interval.low for frame in found]),
        np.stack([nothing if frame.interval is None else frame.interval.high for frame in found]),
        coverage,
    )


def _draw(path: Path, found: Sequence[Reconstruction], chosen: Sequence[int], grid: Grid) -> None:
    from engine.reconstruction.pictures import MAX_PANELS, save_pictures

    panels_of = [_panels(index, frame) for index, frame in zip(chosen, found, strict=True)]
    most = MAX_PANELS // max(map(len, panels_of))
    if len(panels_of) > most:
        click.echo(f"Note: the picture shows the first {most} of {len(panels_of)} frames", err=True)
    save_pictures(path, list(itertools.chain(*panels_of[:most])), grid)


def _panels(index: int, frame: Reconstruction) -> "list[Panel]":
    from engine.reconstruction.pictures import Panel

    panels = [Panel(f"frame {index}", frame.image)]
    if frame.interval is not None:
        width = frame.interval.high - frame.interval.low
        panels.append(Panel(f"width of {100 * frame.interval.coverage:g} % interval", width))
    return panels


def _summarise(method: str, chosen: Sequence[int], reports: Sequence[FrameReport]) -> None:
    parts = [f"{method}: {len(reports)} frames"]
    if any(report.result in ITERATED for report in reports):
        parts.append(f"{sum(report.converged for report in reports)} converged")
    if any(report.iterations for report in reports):
        parts.append(f"median {np.median([report.iterations for report in reports]):g} iterations")
    ratios = [r.residual_over_epsilon for r in reports if r.residual_over_epsilon is not None]
    if ratios:
        parts.append(f"median residual / epsilon {np.median(ratios):.3g}")
    if any(report.interval_coverage for report in reports):
        parts.append(f"{100 * max(report.interval_coverage or 0.0 for report in reports):g} % intervals")
    parts.append(f"median {np.median([report.milliseconds for report in reports]):.3g} ms per frame")
    click.echo(", ".join(parts))
    named = list(zip(chosen, reports, strict=True))
    zero = [index for index, report in named if report.result is Result.ZERO_MEASUREMENT]
    if zero:
        click.echo(f"Note: {frame_list(zero)} measured zero, so the image is zero", err=True)
    clamped = [(index, report) for index, report in named if report.weights_clamped]
    if clamped:
        levels = [report.snr_db for _, report in clamped if report.snr_db is not None]
        click.echo(
            f"Warning: {frame_list([index for index, _ in clamped])}: an SNR of {_span(levels)} dB is "
            "outside the range that the weights were tuned for; those of its nearest end were used",
            err=True,
        )
    beyond = [(index, report) for index, report in named if report.interval_clamped]
    if beyond:
        levels = [report.snr_db for _, report in beyond if report.snr_db is not None]
        click.echo(
            f"Warning: {frame_list([index for index, _ in beyond])}: an SNR of {_span(levels)} dB is outside "
            "the range that the intervals were calibrated for; those of its nearest end were used",
            err=True,
        )
    failed = [(index, report) for index, report in named if not report.converged]
    if failed:
        worst = max(min(report.residuals) for _, report in failed)
        most = max(report.iterations for _, report in failed)
        click.echo(
            f"Warning: {frame_list([index for index, _ in failed])} did not converge in {most} iterations, "
            f"largest residual {worst:.2g}; the best image found was written",
            err=True,
        )


def _span(levels: Sequence[float]) -> str:
    low, high = (f"{level:.1f}" for level in (min(levels), max(levels)))
    return low if low == high else f"{low} to {high}"
