"""Replace a bundle folder as a whole: readers see the old bundle or the new one, never a mixture."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import BundleError, InputError
from engine.machine.atomic_write import atomic_directory
from engine.networks.bundle import MANIFEST
from engine.networks.interval_store import INTERVALS
from engine.networks.manifest import INTERFACE, KIND

STEP_FILE = "step.onnx"

NETWORK_FILES = frozenset(f"{role}.onnx" for role in INTERFACE)
"""ONNX files of all methods."""

PLAN_FILES = frozenset({f"{Path(f).stem}.plan{end}" for f in NETWORK_FILES for end in ("", ".json")})
"""TensorRT plans of these files, which do not outlive them."""

BUNDLE_FILES = NETWORK_FILES | PLAN_FILES | {MANIFEST, "operators.h5", INTERVALS}
"""What an export writes, and the plans and intervals of the networks it replaces. A folder with anything else
is not replaced: the rest would be lost."""


@contextmanager
def staged_bundle(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Give an empty folder next to the target, which takes the target's place when the block succeeds.

    Parameters
    ----------
    target : path-like
        Folder of the bundle. It may exist if it is a bundle.

    Yields
    ------
    Path
        The folder to fill.

    Raises
    ------
    BundleError
        Before any work, if the target exists and is not a bundle, or holds other files too.
    InputError
        If the parent folder does not exist.
    """
    final = Path(os.path.realpath(target))
    check_replaceable(final)
    fresh = _sibling(final, "new")
    with atomic_directory(fresh) as temporary:
        yield temporary
    try:
        _exchange(fresh, final)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def check_replaceable(folder: Path) -> None:
    """Raise InputError if there is no folder for the bundle, or something else stands in its place."""
    if not folder.parent.is_dir():
        raise InputError(
            f"cannot write {folder.name}: the folder {folder.parent} does not exist; create it first"
        )
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise BundleError(
            f"{folder} is a file; expected a new folder or a bundle to replace: choose another name"
        )
    if not _has_manifest(folder):
        raise BundleError(
            f"{folder} exists and is not a bundle; expected a new folder or a bundle to replace: "
            "choose another name or remove it"
        )
    foreign = sorted(entry.name for entry in folder.iterdir() if entry.name not in BUNDLE_FILES)
    if foreign:
        raise BundleError(
            f"the bundle {folder} also holds {', '.join(foreign)}, which replacing it would delete; "
            "expected bundle files only: move the rest away"
        )


def _has_manifest(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("kind") == KIND


def _exchange(fresh: Path, final: Path) -> None:
    """Rename `fresh` to `final`; an older `final` is put back if that fails."""
    if not final.exists():
        fresh.rename(final)
        return
    old = _sibling(final, "old")
    final.rename(old)
    try:
        fresh.rename(final)
    except OSError:
        old.rename(final)
        raise
    shutil.rmtree(old)


def _sibling(folder: Path, purpose: str) -> Path:
    return folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.{purpose}")
