"""`engine serve`: the live service, until a signal ends it."""

import signal
import threading
from pathlib import Path
from types import FrameType

import click

from engine.commands.live_extra import live_extra
from engine.live.live_config import load_live_config


@click.command(short_help="Reconstruct the frames of a scanner as they come.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    required=True,
    help="TOML file: operators, model, policy, endpoints, recording.",
)
@click.option(
    "--log-format",
    type=click.Choice(["json", "text"]),
    default="json",
    show_default=True,
    help="Form of the log on stderr.",
)
def serve(config: Path, log_format: str) -> None:
    """Receive frames, make images, record and publish them (docs/live.md).

    SIGTERM and SIGINT end the service cleanly; SIGHUP reads the configuration again and changes to its
    operators and model between two frames.

    Example: engine serve --config live.toml
    """
    with live_extra():
        from engine.live.logs import event_logger
        from engine.live.service import LiveService
        from engine.live.systemd_notify import notify

    settings = load_live_config(config)
    say = event_logger(log_format)
    stop = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    service = LiveService(settings, say)
    try:
        signal.signal(signal.SIGHUP, lambda _number, _frame: service.swap(config))
        notify("READY=1")
        click.echo(f"frames to {service.frames_endpoint}, images at {service.images_endpoint}")
        service.run(stop)
        notify("STOPPING=1")
    finally:
        service.close()
