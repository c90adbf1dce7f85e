"""Model bundles: a folder with `manifest.json` and the networks of one method, checked before use."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from engine.errors import BundleError, ConfigError
from engine.fixed_point.config import FixedPointConfig
from engine.networks.interval_table import Intervals
from engine.networks.manifest import CONVENTIONS, Manifest, Network

__all__ = ["CONVENTIONS", "MANIFEST", "Bundle", "Manifest", "Network", "load_bundle"]

MANIFEST = "manifest.json"
"""Name of the manifest inside a bundle folder."""

MODELS = Path(__file__).parents[1] / "models"
"""Folder of the bundles inside the package."""

REFERENCE = "reference"
"""Name of the bundle of the method deq that ships, which is used where none is named."""


@dataclass(frozen=True)
class Bundle:
    """A bundle folder as it was when it was read and checked.

    Attributes
    ----------
    manifest : Manifest
        Description of the bundle.
    path : Path
        The folder.
    networks : mapping of str to bytes
        ONNX graph of each network of the manifest by its role, the very bytes whose hash was compared.
    intervals : Intervals or None
        Calibrated intervals of the model's images; None if the bundle has none.
    """

    manifest: Manifest
    path: Path
    networks: Mapping[str, bytes]
    intervals: Intervals | None

    def require_method(self, method: str) -> None:
        """Raise unless the networks were trained for this method.

        Raises
        ------
        BundleError
            If the bundle is of another method.
        """
        if self.manifest.method != method:
            raise BundleError(
                f"the bundle {self.path} is of method {self.manifest.method}; expected {method}; "
                f"use --method {self.manifest.method} or a bundle of method {method}"
            )

    def require_solver(self) -> FixedPointConfig:
        """Return the solver settings the networks were tuned for.

        Raises
        ------
        BundleError
            If the bundle's method does not iterate.
        """
        if self.manifest.solver is None:
            raise BundleError(
                f"the bundle {self.path} is of method {self.manifest.method}, which does not iterate; "
                "expected a bundle with solver settings; use a bundle of another method"
            )
        return self.manifest.solver


def shipped_bundle_path(name: str) -> Path:
    """Return the folder of a bundle inside the package by its name, "reference", "fast" or "denoiser".

    Raises
    ------
    BundleError
        If none of that name ships.
    """
    if name not in _shipped_names():
        raise BundleError(f"no bundle {name!r} ships; expected one of {', '.join(_shipped_names())}")
    return MODELS / name


def load_bundle(path: str | os.PathLike[str] | None = None) -> Bundle:
    """Read a bundle, each file once, and check the hash of every file.

    Parameters
    ----------
    path : path, optional
        Bundle folder, or, where there is no such folder, the name of a bundle inside the package; by default
        the one that ships for the method deq.

    Returns
    -------
    Bundle

    Raises
    ------
    BundleError
        If the folder or a file is missing, the manifest is not valid, or a hash differs.
    """
    folder = shipped_bundle_path(REFERENCE) if path is None else _folder(path)
    file = folder / MANIFEST
    if not file.is_file():
        raise BundleError(
            f"{folder} is not a model bundle: it holds no {MANIFEST}; give a bundle folder or one of "
            f"{', '.join(_shipped_names())}, which ship"
        )
    try:
        manifest = Manifest.from_dict(json.loads(file.read_text("utf-8")))
    except ValueError as error:  # not JSON, or not UTF-8
        raise BundleError(f"{file} is not valid JSON ({error}); get the bundle again") from error
    except BundleError as error:
        raise BundleError(f"{file}: {error}") from error
    networks = {
        role: _read(folder / network.file, network.sha256, f"the {role} network")
        for role, network in manifest.networks.items()
    }
    return Bundle(manifest, folder, MappingProxyType(networks), _read_intervals(folder, manifest))


def _read_intervals(folder: Path, manifest: Manifest) -> Intervals | None:
    entry = manifest.intervals
    if entry is None:
        return None
    path = folder / entry.file
    content = _read(path, entry.sha256, "the intervals")
    try:
        intervals = Intervals.from_dict(json.loads(content))
    except (ValueError, ConfigError) as error:  # not JSON or not UTF-8, or no table of intervals
        raise BundleError(f"{path}: {error}") from error
    if intervals.method != manifest.method:
        raise BundleError(
            f"{path} is of method {intervals.method}; expected {manifest.method}, that of the bundle; "
            "calibrate the intervals again"
        )
    return intervals


def _read(path: Path, sha256: str, what: str) -> bytes:
    """Return the bytes of a file of a bundle; raise BundleError if it is missing or was changed."""
    if not path.is_file():
        raise BundleError(f"{path} is missing; expected {what} that {MANIFEST} names")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise BundleError(
            f"{path} has SHA-256 {found[:12]}..., {MANIFEST} says {sha256[:12]}...: the file was "
            "changed or damaged; get the bundle again"
        )
    return content


def _folder(path: str | os.PathLike[str]) -> Path:
    """Return the folder that a path or the name of a shipped bundle stands for."""
    given = Path(path)
    is_name = os.fspath(path) in _shipped_names() and not given.exists()
    return MODELS / given if is_name else given


def _shipped_names() -> list[str]:
    return sorted(folder.name for folder in MODELS.iterdir() if (folder / MANIFEST).is_file())
