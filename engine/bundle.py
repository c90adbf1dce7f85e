"""Model bundles: a folder with `manifest.json`, `rdn.onnx` and `lc.onnx`, checked before use."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from engine.errors import BundleError
from engine.manifest import Conventions, Manifest, Network

__all__ = ["MANIFEST", "Bundle", "Conventions", "Manifest", "Network", "default_bundle_path", "load_bundle"]

MANIFEST = "manifest.json"
"""Name of the manifest inside a bundle folder."""


@dataclass(frozen=True)
class Bundle:
    """A checked bundle folder.

    Attributes
    ----------
    manifest : Manifest
        Its description.
    path : Path
        The folder.
    """

    manifest: Manifest
    path: Path

    def read_network(self, role: str) -> bytes:
        """Return the ONNX bytes of "rdn" or "lc", the very bytes whose hash was compared.

        Raises
        ------
        BundleError
            If the file is missing or its SHA-256 is not the manifest's.
        """
        network = self.manifest.networks[role]
        path = self.path / network.file
        if not path.is_file():
            raise BundleError(f"{path} is missing; expected the {role} network that {MANIFEST} names")
        content = path.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != network.sha256:
            raise BundleError(
                f"{path} has SHA-256 {found[:12]}..., {MANIFEST} says {network.sha256[:12]}...: the file was "
                "changed or damaged; get the bundle again"
            )
        return content


def default_bundle_path() -> Path:
    """Return the folder of the bundle that ships with the package."""
    return Path(__file__).parent / "models" / "reference"


def load_bundle(path: str | os.PathLike[str] | None = None) -> Bundle:
    """Read a bundle's manifest and check the hash of every network, before any network is opened.

    Parameters
    ----------
    path : path, optional
        Bundle folder; by default the one that ships with the package.

    Returns
    -------
    Bundle

    Raises
    ------
    BundleError
        If the folder or a file is missing, the manifest is not valid, or a hash differs.
    """
    folder = default_bundle_path() if path is None else Path(path)
    file = folder / MANIFEST
    if not file.is_file():
        raise BundleError(f"{folder} is not a model bundle: it holds no {MANIFEST}; give a bundle folder")
    try:
        manifest = Manifest.from_dict(json.loads(file.read_text("utf-8")))
    except ValueError as error:  # not JSON, or not UTF-8
        raise BundleError(f"{file} is not valid JSON ({error}); get the bundle again") from error
    except BundleError as error:
        raise BundleError(f"{file}: {error}") from error
    bundle = Bundle(manifest, folder)
    for role in manifest.networks:
        bundle.read_network(role)
    return bundle
