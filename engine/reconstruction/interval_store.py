"""Intervals in a bundle: stored beside its networks, and found again for a solver that uses them."""

import hashlib
import json
from dataclasses import replace

from engine.errors import BundleError, PairingError
from engine.machine.atomic_write import atomic_path
from engine.networks.bundle import MANIFEST, Bundle, load_bundle
from engine.networks.interval_table import Intervals
from engine.networks.manifest import IntervalsEntry, Manifest
from engine.reconstruction.method_settings import MethodSettings
from engine.reconstruction.methods import METHODS, bundle_of
from engine.solvers.frame_solver import FrameSolver

INTERVALS = "intervals.json"
"""Name of the table inside a bundle folder."""


def store_intervals(bundle: Bundle, intervals: Intervals) -> Bundle:
    """Write intervals into a bundle, in the place of older ones.

    The folder is a valid bundle at every moment, without intervals until the last step.

    Parameters
    ----------
    bundle : Bundle
        Bundle of the method of the intervals.
    intervals : Intervals
        Intervals calibrated with the bundle's networks.

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
    entry = IntervalsEntry(INTERVALS, hashlib.sha256(content).hexdigest())
    _write_manifest(bundle, replace(bundle.manifest, intervals=entry))
    return load_bundle(bundle.path)


def require_intervals(solver: FrameSolver, settings: MethodSettings) -> Intervals:
    """Return the intervals of the model of a solver.

    Parameters
    ----------
    solver : FrameSolver
        Method bound to its operators.
    settings : MethodSettings
        Settings with which it was opened; they name the model.

    Raises
    ------
    PairingError
        If the method has no model, or the intervals were calibrated for other settings.
    BundleError
        If the bundle has no intervals, or they cannot be used.
    """
    intervals = stored_intervals(solver, settings)
    if intervals is None:
        missing = f"method {solver.method} has no intervals: they are calibrated for a model with networks"
        if METHODS[solver.method].needs_model:
            path = bundle_of(solver.method, settings).path
            missing = (
                f"the bundle {path} has no intervals; calibrate them: engine intervals SYSTEM_MATRIX {path}"
            )
            raise BundleError(missing)
        raise PairingError(f"{missing}; use one of those or do without intervals")
    intervals.require_settings(solver.method, solver.settings)
    return intervals


def stored_intervals(solver: FrameSolver, settings: MethodSettings) -> Intervals | None:
    """Return the intervals of the model of a solver, whatever settings they were calibrated for.

    Parameters
    ----------
    solver : FrameSolver
        Method bound to its operators.
    settings : MethodSettings
        Settings with which it was opened; they name the model.

    Returns
    -------
    Intervals or None
        None if the method has no model, or the bundle no intervals.

    Raises
    ------
    BundleError
        If the bundle has intervals that cannot be used.
    """
    if not METHODS[solver.method].needs_model:
        return None
    return bundle_of(solver.method, settings).read_intervals()


def _write_manifest(bundle: Bundle, manifest: Manifest) -> None:
    with atomic_path(bundle.path / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest.to_dict(), indent=2, allow_nan=False) + "\n", "utf-8")
