"""The command `engine serve`: the live service, until a signal ends it."""

import logging
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Literal

import click

from engine.commands.arguments import live_extra
from engine.live.loop.events import Event
from engine.live.service.live_config import load_live_config

STATUS_S = 1.0
"""Time between two messages about the state, and between two signs of life to systemd."""


@click.command(short_help="Reconstruct the frames of a scanner as they come.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    required=True,
    help="TOML file: operators, model, policy, endpoints, recording; - for standard input.",
)
@click.option(
    "--log-format",
    type=click.Choice(["json", "text"]),
    default="json",
    show_default=True,
    help="Form of the log on stderr.",
)
def serve(config: Path, log_format: Literal["json", "text"]) -> None:
    """Receive frames, make images, record and publish them (docs/live.md).

    SIGTERM and SIGINT end the service cleanly; SIGHUP reads the configuration again and changes to its
    operators and model between two frames.

    Example: engine serve --config live.toml
    """
    with live_extra():
        from engine.live.service.logs import log_event, structured_logs
        from engine.live.service.service import LiveService
        from engine.live.service.systemd_notify import ServiceManager

    settings = load_live_config(config)
    logger = logging.getLogger("engine.live")

    def say(event: Event) -> None:
        log_event(logger, event.level, event.name, **event.fields)

    stop = threading.Event()
    manager = ServiceManager()
    with structured_logs(log_format) as log:

        def end(number: int, _frame: FrameType | None) -> None:
            stop.set()
            signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
        service = LiveService(settings, say)
        try:
            signal.signal(signal.SIGHUP, lambda _number, _frame: service.swap(config))
            where = f"frames to {service.frames_endpoint}, images at {service.images_endpoint}"
            manager.ready(where)
            click.echo(where)
            while not stop.wait(STATUS_S):
                service.publish_state()
                log.summarise()
                if service.is_healthy:
                    manager.watchdog()
            manager.stopping()
        finally:
            service.close()
