"""The command `engine recover`: ordinary MDF files from recordings that were cut off."""

from pathlib import Path

import click

from engine.errors import InputError
from engine.live.recording.finish import recover_folder, recover_recording


@click.command(short_help="Make MDF files of recordings that were cut off.")
@click.argument("file_or_folder", type=click.Path(path_type=Path))
def recover(file_or_folder: Path) -> None:
    """Turn the recording FILE_OR_FOLDER, or all those in a folder, into ordinary MDF files of the same names.

    Recordings that another process is writing are left alone.
    """
    if not file_or_folder.exists():
        raise InputError(f"{file_or_folder} does not exist; expected a recording or a folder; check the path")
    if not file_or_folder.is_dir():
        found = [recover_recording(file_or_folder)]
    else:
        found = recover_folder(file_or_folder)
    for recording in found:
        click.echo(f"recovered {recording.path}: {recording.n_frames} frames or images")
        if recording.note:
            click.echo(f"Note: {recording.path.name}: {recording.note}", err=True)
    if not found:
        click.echo(f"nothing to recover in {file_or_folder}")
