"""The command `engine replay`: a recording played through the live service, every frame accounted for."""

import json
import tempfile
from pathlib import Path

import click

from engine.commands.arguments import live_extra
from engine.live.loop.late_frames import POLICIES
from engine.machine.atomic_write import atomic_path
from engine.mpi.mdf import read_mdf


@click.command(short_help="Play a measurement through the live service.")
@click.argument("measurement", type=click.Path(path_type=Path))
@click.option(
    "--operators", type=click.Path(path_type=Path), required=True, help="Operators of the system matrix."
)
@click.option("--model", help="Bundle folder or shipped name.  [fast]", default="fast")
@click.option("--rate", type=float, default=46.4, show_default=True, help="Frames per second.")
@click.option("--seconds", type=float, default=10.0, show_default=True, help="How long to play.")
@click.option(
    "--policy",
    type=click.Choice(list(POLICIES)),
    default="latest",
    show_default=True,
    help="What happens to frames that come faster than images.",
)
@click.option(
    "--deadline",
    type=float,
    default=43.0,
    show_default=True,
    help="Milliseconds from a frame to its image; 0 for none.",
)
@click.option("--tolerance", type=float, help="Relative residual to reach.  [from the bundle]")
@click.option(
    "--threads",
    type=click.Choice(["1", "2", "auto"]),
    default="auto",
    show_default=True,
    help="Cores that work on a frame.",
)
@click.option("--warm-start", is_flag=True, help="Start each frame from the one before.")
@click.option("--report", type=click.Path(path_type=Path), help="Also write the account as JSON.")
def replay(
    measurement: Path,
    operators: Path,
    model: str,
    rate: float,
    seconds: float,
    policy: str,
    deadline: float,
    tolerance: float | None,
    threads: str,
    warm_start: bool,
    report: Path | None,
) -> None:
    """Start a live service, play the MDF file MEASUREMENT into it over and over, and account for every frame.

    Times are from the sending of a frame to the receipt of its image, by another process than the service.

    Example: engine replay scan/measurement.mdf --operators operators.h5 --seconds 60
    """
    with live_extra():
        from engine.live.replay.player import open_recording
        from engine.live.replay.replay import replay as play_into
        from engine.live.service.service_process import ServiceProcess

    recording = open_recording(read_mdf(measurement))
    bundle = Path(model)
    lines = [
        "[reconstruction]",
        f"operators = {json.dumps(str(operators.resolve()))}",
        f"model = {json.dumps(str(bundle.resolve()) if bundle.is_dir() else model)}",
        f"threads = {threads if threads.isdigit() else json.dumps(threads)}",
        f"warm_start = {json.dumps(warm_start)}",
        *([] if tolerance is None else [f"tolerance = {tolerance}"]),
        "[loop]",
        f'policy = "{policy}"',
        *([f"deadline_ms = {deadline}"] if deadline else ["deadline_ms = false"]),
        "[endpoints]",
        'frames = "tcp://127.0.0.1:*"',
        'images = "tcp://127.0.0.1:*"',
    ]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "live.toml"
        config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        click.echo(
            f"starting the service, then playing {rate:g} frames per second for {seconds:g} s", err=True
        )
        with ServiceProcess(config) as service:
            found = play_into(
                recording, service.frames_endpoint, service.images_endpoint, rate=rate, seconds=seconds
            )
    if report is not None:
        with atomic_path(report) as temporary:
            temporary.write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")
    click.echo(
        f"{found.policy}: {found.frames_in} frames in = {found.images_out} images + {found.averaged} "
        f"averaged + {found.dropped} dropped + {found.in_flight} in flight"
    )
    if found.p50_ms is not None:
        click.echo(
            f"frame to image: p50 {found.p50_ms:.1f} ms, p99 {found.p99_ms:.1f} ms, p99.9 "
            f"{found.p999_ms:.1f} ms; {found.late} late, {found.cut} ended by the deadline, "
            f"{found.not_converged} not converged"
        )
    if not found.is_balanced:
        raise click.ClickException(
            f"{found.frames_sent} frames were sent, {found.frames_in} arrived, and not all are accounted for"
        )
