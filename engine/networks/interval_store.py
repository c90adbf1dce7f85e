"""Intervals stored in a bundle, beside its networks."""

import hashlib
import json
from dataclasses import replace

from engine.machine.atomic_write import atomic_path
from engine.networks.bundle import MANIFEST, Bundle, load_bundle
from engine.networks.interval_table import Intervals
from engine.networks.manifest import BundleFile, Manifest

INTERVALS = "intervals.json"
"""Name of the table inside a bundle folder."""


def store_intervals(bundle: Bundle, intervals: Intervals) -> Bundle:
    """Write intervals into a bundle, in the place of older ones.

    The folder is a valid bundle at every moment, without intervals until the last step.

    Parameters
    ----------
    bundle : Bundle
        Of the method of the intervals.
    intervals : Intervals
        Calibrated with the bundle's networks.

    Returns
    -------
    Bundle
        The same folder, read again.

    Raises
    ------
    BundleError
        If the bundle is of another method.
    """
    bundle.require_method(intervals.method)
    if bundle.manifest.intervals is not None:
        _write_manifest(bundle, replace(bundle.manifest, intervals=None))
    content = (json.dumps(intervals.to_dict(), allow_nan=False) + "\n").encode()
    with atomic_path(bundle.path / INTERVALS) as temporary:
        temporary.write_bytes(content)
    entry = BundleFile(INTERVALS, hashlib.sha256(content).hexdigest())
    _write_manifest(bundle, replace(bundle.manifest, intervals=entry))
    return load_bundle(bundle.path)


def _write_manifest(bundle: Bundle, manifest: Manifest) -> None:
    with atomic_path(bundle.path / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest.to_dict(), indent=2, allow_nan=False) + "\n", "utf-8")
