"""`engine recon`: from a measurement to images."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from engine.atomic_write import atomic_path
from engine.bundle import load_bundle
from engine.commands.frames import FrameSelection, frame_list, parse_frames
from engine.commands.outputs import require_distinct_files
from engine.fixed_point import FixedPointConfig
from engine.measurement import MeasurementRows, measurement_rows
from engine.mpi.grid import Grid
from engine.mpi.mdf import read_mdf, write_mdf
from engine.mpi.mdf_factory import new_reconstruction_file
from engine.reconstructor import LeastSquares, Reconstruction, Reconstructor
from engine.report import FrameReport
from engine.sessions import PROVIDERS
from engine.solution import Result

SOLVER_OPTIONS = ("model", "solver", "max_iterations", "tolerance", "provider")
"""Options that have a meaning only for the deep equilibrium method."""


@click.command(short_help="Reconstruct images from a measurement.")
@click.argument("measurement", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--operators", type=click.Path(path_type=Path), required=True, help="Operators of the system matrix."
)
@click.option("--model", type=click.Path(path_type=Path), help="Bundle folder.  [the one that ships]")
@click.option(
    "--method",
    type=click.Choice([Reconstructor.method, LeastSquares.method]),
    default=Reconstructor.method,
    show_default=True,
    help="Deep equilibrium, or the linear start of its iteration.",
)
@click.option(
    "--solver", type=click.Choice(["anderson", "plain"]), help="How to iterate.  [the bundle's choice]"
)
@click.option(
    "--max-iterations", type=int, metavar="N", help="Evaluations of the fixed-point map.  [from the bundle]"
)
@click.option("--tolerance", type=float, help="Relative residual to reach.  [from the bundle]")
@click.option("--sigma", type=float, help="Noise per row in units of the calibration's.  [estimated]")
@click.option(
    "--frames",
    callback=parse_frames,
    metavar="FRAMES",
    help="Foreground frames, 0-based: 3, 0:8 or 0,4,7:9.  [all]",
)
@click.option(
    "--provider",
    type=click.Choice(list(PROVIDERS)),
    default="cpu",
    show_default=True,
    help="Where to compute.",
)
@click.option("--image", type=click.Path(path_type=Path), help="Also draw the images (.png, .pdf, .svg).")
@click.option(
    "--stats", type=click.Path(path_type=Path), help="Also write the report of every frame as JSON."
)
@click.pass_context
def recon(
    context: click.Context,
    /,
    measurement: Path,
    out: Path,
    operators: Path,
    sigma: float | None,
    frames: FrameSelection | None,
    image: Path | None,
    stats: Path | None,
    **solver_options: Any,
) -> None:
    """Reconstruct the foreground frames of the MDF file MEASUREMENT and write them to the MDF file OUT.

    Example: engine recon scan/measurement.mdf image.mdf --operators operators.h5 --image image.png
    """
    outputs = [path for path in (out, image, stats) if path is not None]
    require_distinct_files([measurement, operators], outputs)
    with ExitStack() as stack:
        # Targets are checked before the work, and renamed together after all of them were written.
        staged = {path: stack.enter_context(atomic_path(path)) for path in outputs}
        method = _open_method(context, operators, **solver_options)
        source = read_mdf(measurement)
        rows = measurement_rows(source, method.operators)
        for note in rows.notes:
            click.echo(f"Note: {note}", err=True)
        chosen = frames.indices(len(rows.rows)) if frames else list(range(len(rows.rows)))
        found = _reconstruct(method, rows, chosen, sigma)
        grid = method.operators.grid
        volumes = np.stack([frame.image for frame in found])
        write_mdf(staged[out], new_reconstruction_file(volumes, grid, source))
        if image:
            _draw(staged[image], found, chosen, grid)
        if stats:
            record = _record(method, measurement, operators, solver_options["model"], chosen, found)
            record["background_sigma"] = rows.background_sigma
            staged[stats].write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", "utf-8")
    _summarise(method, chosen, [frame.report for frame in found])
    click.echo(f"wrote {', '.join(str(path) for path in outputs)}")


def _open_method(
    context: click.Context,
    operators: Path,
    *,
    method: str,
    model: Path | None,
    solver: str | None,
    max_iterations: int | None,
    tolerance: float | None,
    provider: str,
) -> Reconstructor | LeastSquares:
    if method == LeastSquares.method:
        for name in SOLVER_OPTIONS:
            if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
                option = name.replace("_", "-")
                raise click.UsageError(f"--{option} has no meaning with --method {method}; leave it out")
        return LeastSquares.load(operators)
    config = load_bundle(model).require_solver()
    if solver == "plain":
        config = replace(config, memory=0, beta=1.0)
    elif solver == "anderson" and config.memory == 0:
        config = replace(config, memory=FixedPointConfig().memory)
    if max_iterations is not None:
        config = replace(config, max_iterations=max_iterations)
    if tolerance is not None:
        config = replace(config, tolerance=tolerance)
    return Reconstructor.load(operators, model, config, provider)


def _reconstruct(
    method: Reconstructor | LeastSquares, rows: MeasurementRows, chosen: Sequence[int], sigma: float | None
) -> list[Reconstruction]:
    return [method.reconstruct(rows.rows[index], sigma) for index in chosen]


def _draw(path: Path, found: Sequence[Reconstruction], chosen: Sequence[int], grid: Grid) -> None:
    from engine.pictures import MAX_PANELS, Panel, save_pictures

    panels = [Panel(f"frame {index}", frame.image) for index, frame in zip(chosen, found, strict=True)]
    if len(panels) > MAX_PANELS:
        click.echo(f"Note: the picture shows the first {MAX_PANELS} of {len(panels)} frames", err=True)
    save_pictures(path, panels[:MAX_PANELS], grid)


def _record(
    method: Reconstructor | LeastSquares,
    measurement: Path,
    operators: Path,
    model: Path | None,
    chosen: Sequence[int],
    found: Sequence[Reconstruction],
) -> dict[str, Any]:
    is_deq = isinstance(method, Reconstructor)
    return {
        "kind": "deq-mpi-report",
        "schema": 1,
        "method": method.method,
        "measurement": str(measurement),
        "operators": str(operators),
        "model": load_bundle(model).manifest.name if is_deq else None,
        "solver": method.config.to_dict() if isinstance(method, Reconstructor) else None,
        "frames": [
            {"frame": index} | frame.report.to_dict() for index, frame in zip(chosen, found, strict=True)
        ],
    }


def _summarise(
    method: Reconstructor | LeastSquares, chosen: Sequence[int], reports: Sequence[FrameReport]
) -> None:
    parts = [f"{method.method}: {len(reports)} frames"]
    if isinstance(method, Reconstructor):
        parts.append(f"{sum(report.converged for report in reports)} converged")
        parts.append(f"median {np.median([report.iterations for report in reports]):g} evaluations")
    ratios = [r.residual_over_epsilon for r in reports if r.residual_over_epsilon is not None]
    if ratios:
        parts.append(f"median residual / epsilon {np.median(ratios):.3g}")
    parts.append(f"median {np.median([report.milliseconds for report in reports]):.3g} ms per frame")
    click.echo(", ".join(parts))
    named = list(zip(chosen, reports, strict=True))
    zero = [index for index, report in named if report.result is Result.ZERO_MEASUREMENT]
    if zero:
        click.echo(f"Note: {frame_list(zero)} measured zero, so the image is zero", err=True)
    failed = [(index, report) for index, report in named if not report.converged]
    if failed:
        worst = max(min(report.residuals) for _, report in failed)
        click.echo(
            f"Warning: {frame_list([index for index, _ in failed])} did not converge in "
            f"{failed[0][1].iterations} evaluations, largest residual {worst:.2g}; the best image found was "
            "written",
            err=True,
        )
