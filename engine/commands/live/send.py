"""The command `engine send`: a recording played into a service that runs already."""

import time
from pathlib import Path

import click

from engine.commands.arguments import live_extra
from engine.mpi.mdf import read_mdf


@click.command(short_help="Play a measurement into a running service.")
@click.argument("measurement", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "endpoint",
    default="tcp://127.0.0.1:5555",
    show_default=True,
    help="Where the service takes frames.",
)
@click.option("--rate", type=float, default=46.4, show_default=True, help="Frames per second.")
@click.option("--seconds", type=float, default=10.0, show_default=True, help="How long to play.")
def send(measurement: Path, endpoint: str, rate: float, seconds: float) -> None:
    """Send the frames of the MDF file MEASUREMENT over and over, as a scanner would.

    Example: engine send scan/measurement.mdf --seconds 60
    """
    with live_extra():
        from engine.live.replay.player import open_recording, play
        from engine.live.wire.producer import producer

    recording = open_recording(read_mdf(measurement))
    with producer(endpoint) as push:
        count = 0
        for frame in play(recording, rate, seconds, stream=f"send-{time.time_ns()}"):
            push(frame)
            count += 1
    click.echo(f"sent {count} frames")
