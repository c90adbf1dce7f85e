"""The command `engine view`: a page with the live image."""

import asyncio
from dataclasses import replace
from pathlib import Path

import click

from engine.commands.arguments import live_extra
from engine.errors import InputError


@click.command(short_help="Show the live images on a page.")
@click.option(
    "--source",
    default="tcp://127.0.0.1:5556",
    show_default=True,
    metavar="ADDRESS",
    help="Where the service publishes its images.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to serve the page at; any but this machine's own needs the token that is printed.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8050,
    show_default=True,
    help="Port of the page; 0 for a free one.",
)
@click.option(
    "--allow-host",
    "names",
    multiple=True,
    metavar="NAME",
    help="A further host name that the page may be opened under; may be repeated.",
)
@click.option(
    "--snapshots",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("snapshots"),
    show_default=True,
    help="Folder for snapshots; made with the first one.",
)
@click.option(
    "--metadata",
    type=click.Path(path_type=Path),
    help="MDF file whose study, scanner and acquisition MDF snapshots get.  [a note that they are not known]",
)
def view(
    source: str, host: str, port: int, names: tuple[str, ...], snapshots: Path, metadata: Path | None
) -> None:
    """Serve a page with the live images of a running `engine serve`, until Ctrl-C.

    Example: engine view --source tcp://127.0.0.1:5556 --snapshots snapshots
    """
    with live_extra():
        from engine.live.view.access import open_access
        from engine.live.view.feed import ViewFeed
        from engine.live.view.server import ViewServer, serve_page
        from engine.live.view.snapshots import SnapshotFolder
    from engine.mpi.mdf import read_mdf

    if not snapshots.absolute().parent.is_dir():
        raise InputError(
            f"cannot make the folder {snapshots}: the folder around it does not exist; create that first"
        )
    known = None
    if metadata is not None:
        # Only the description is needed: the frames of a long measurement would fill the memory.
        known = replace(read_mdf(metadata), measurement=None, calibration=None, reconstruction=None)
    server = ViewServer(ViewFeed(source), open_access(host, names), SnapshotFolder(snapshots, known))

    def announce(url: str) -> None:
        click.echo(f"watching {source}; page: {url}")

    asyncio.run(serve_page(server, host, port, announce))
