"""Outputs that appear complete or not at all: written under a temporary name, then renamed."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import InputError


@contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the target's folder; rename it to the target when the block succeeds.

    When the block raises, the temporary file is removed and an existing target stays as it was. Nest
    several of these (`contextlib.ExitStack`) to publish several outputs only after all were written.

    Parameters
    ----------
    target : path
        File to create or replace. A symbolic link is followed, so the file it points to is replaced.

    Yields
    ------
    Path
        Temporary name with the target's suffix. The block must create a file there.

    Raises
    ------
    InputError
        If the folder does not exist, or the target is something else than a regular file.
    """
    final = _resolved_target(target)
    if final.exists() and not final.is_file():
        raise InputError(f"cannot write to {final}: it is not a regular file; give the name of a file")
    temporary = final.with_name(f".{final.stem}.{secrets.token_hex(4)}.partial{final.suffix}")
    try:
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Give an empty temporary folder next to the target; rename it to the target when the block succeeds.

    A folder that already holds files is refused before any work is done, because replacing it would delete
    files this program did not write.

    Parameters
    ----------
    target : path
        Folder to create. It may exist if it is empty.

    Yields
    ------
    Path
        The temporary folder.

    Raises
    ------
    InputError
        If the parent folder does not exist, or the target is a file or a folder that is not empty.
    """
    final = _resolved_target(target)
    if final.exists() and not final.is_dir():
        raise InputError(f"cannot create the folder {final}: a file of that name exists; choose another name")
    if final.is_dir() and any(final.iterdir()):
        raise InputError(f"the folder {final} is not empty; choose a new folder or remove its content")
    temporary = final.with_name(f".{final.name}.{secrets.token_hex(4)}.partial")
    temporary.mkdir()
    try:
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                _flush_to_disk(path)
        if final.is_dir():
            final.rmdir()  # fails when someone filled it meanwhile; nothing is deleted
        os.rename(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _resolved_target(target: str | os.PathLike[str]) -> Path:
    final = Path(os.path.realpath(target))
    if not final.parent.is_dir():
        raise InputError(
            f"cannot write {final.name}: the folder {final.parent} does not exist; create it first"
        )
    return final


def _flush_to_disk(path: Path) -> None:
    # Without this a power cut after the rename may leave a file of the right name and no content.
    with path.open("rb+") as file:
        os.fsync(file.fileno())
