"""The methods under test: what ships, what was trained beside it, and the authors' own weights."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.contestants.model_shelf import MissingModelError, ModelShelf, ShelfBundle
from benchmarks.scans.scans import TRAIN_SNRS
from engine.errors import BundleError
from engine.networks.bundle import load_bundle, shipped_bundle_path
from engine.operators.operators import Operators
from engine.reconstruction.method import weights_of
from engine.reconstruction.method_settings import MethodSettings
from engine.reconstruction.methods import METHODS, default_bundle_path, open_method
from engine.reconstruction.reconstructor import Reconstructor

HAND_CRAFTED = ("least-squares", "tikhonov", "admm-l1", "art", "admm-tv", "admm-hybrid")
"""Methods without a network, in the paper's order of quality."""

AUTHORS_ITERATIONS = 25
"""Plain fixed-point steps, as in the released code."""

LeaveOut = Callable[[str], None]
"""Told why something cannot be measured here."""


@dataclass(frozen=True)
class Contestant:
    """A method with the settings that it is compared at.

    Attributes
    ----------
    name : str
        In the column "method" of the results.
    method : str
        One of `engine.reconstruction.methods.METHODS`.
    settings : MethodSettings
        Model and limits.
    identity : mapping
        What the images depend on besides the code: weights, hashes of networks, limits; JSON can hold it.
    """

    name: str
    method: str
    settings: MethodSettings
    identity: Mapping[str, Any]

    def open(self, operators: Operators) -> Reconstructor:
        """Make the reconstructor for a system matrix."""
        return Reconstructor(open_method(self.method, operators, self.settings))


def contestants(snr: float, shelf: ModelShelf, leave_out: LeaveOut) -> list[Contestant]:
    """Return everything that is compared at a measurement SNR in dB, roughly from worst to best.

    Parameters
    ----------
    snr : float
        Chooses the models that were trained at (or nearest to) one SNR.
    shelf : ModelShelf
        Of the models that do not ship.
    leave_out : callable
        Told of every model that is not on this machine.
    """
    trained: list[Contestant] = []
    if snr in TRAIN_SNRS:
        trained += _if_there(lambda: trained_at("deq", snr, shelf, "deq, trained at this SNR"), leave_out)
    return [
        *(as_shipped(method) for method in HAND_CRAFTED),
        *_if_there(lambda: as_shipped("pp-mpi"), leave_out),
        *_if_there(lambda: authors_pp_mpi(shelf), leave_out),
        *_if_there(lambda: as_shipped("deq"), leave_out),
        *_if_there(fast, leave_out),
        *trained,
        *_if_there(lambda: authors_deq(snr, shelf), leave_out),
    ]


def as_shipped(method: str) -> Contestant:
    """Return a method as a user gets it: the weights and networks inside the package."""
    return _contestant(method, method, MethodSettings(), _shipped_hashes(method))


def fast() -> Contestant:
    """Return DEQ-MPI with the smaller of the shipped models."""
    model = shipped_bundle_path("fast")
    return _contestant("deq, fast", "deq", MethodSettings(model=model), _hashes(model))


def trained_alike(shelf: ModelShelf) -> Contestant:
    """Return the equilibrium with the l2 ball in place of Psi_LC, trained like the shipped networks."""
    return _from_bundle("deq-ball, trained alike", "deq-ball", shelf.trained_alike())


def trained_at(method: str, snr: float, shelf: ModelShelf, name: str | None = None) -> Contestant:
    """Return a method with the network trained at one SNR in dB (`models/ablation`)."""
    return _from_bundle(name or f"{method}, trained at {snr:g} dB", method, shelf.run(f"{method}-{snr:g}"))


def before_equilibrium_training(shelf: ModelShelf) -> Contestant:
    """Return DEQ-MPI with the networks as pre-training left them."""
    return _from_bundle("deq, pre-trained only", "deq", shelf.before_equilibrium_training())


def authors_deq(snr: float, shelf: ModelShelf, name: str = "deq, authors' weights") -> Contestant:
    """Return the authors' networks trained nearest to an SNR in dB, iterated as in their released code."""
    settings = MethodSettings(solver="plain", max_iterations=AUTHORS_ITERATIONS, tolerance=0.0)
    return _from_bundle(name, "deq", shelf.authors_deq(snr), settings)


def authors_pp_mpi(shelf: ModelShelf) -> Contestant:
    """Return PP-MPI with the authors' denoiser, scaled as it was trained."""
    settings = MethodSettings(weights={"scale": 1.0})
    return _from_bundle("pp-mpi, authors' denoiser", "pp-mpi", shelf.authors_denoiser(), settings)


def _if_there(make: Callable[[], Contestant], leave_out: LeaveOut) -> Iterator[Contestant]:
    try:
        yield make()
    except (MissingModelError, BundleError) as error:
        leave_out(str(error))


def _from_bundle(
    name: str, method: str, bundle: ShelfBundle, settings: MethodSettings | None = None
) -> Contestant:
    settings = replace(settings or MethodSettings(), model=bundle.path)
    return _contestant(name, method, settings, {"source_sha256": bundle.source_sha256})


def _contestant(name: str, method: str, settings: MethodSettings, hashes: Mapping[str, Any]) -> Contestant:
    identity: dict[str, Any] = {"method": method, **hashes}
    identity |= {key: getattr(settings, key) for key in settings.given() if key not in ("model", "weights")}
    if "weights" in METHODS[method].settings:
        identity["weights"] = asdict(weights_of(method, METHODS[method], settings))
    return Contestant(name, method, settings, identity)


def _shipped_hashes(method: str) -> dict[str, Any]:
    if not METHODS[method].networks:
        return {}
    return _hashes(default_bundle_path(method))


def _hashes(model: Path) -> dict[str, Any]:
    """Return all of a bundle that images depend on."""
    manifest = load_bundle(model).manifest
    hashes: dict[str, Any] = {f"{role}_sha256": net.sha256 for role, net in manifest.networks.items()}
    if METHODS[manifest.method].is_equilibrium and manifest.solver is not None:
        hashes |= {"solver": manifest.solver.to_dict(), "dual_start": manifest.dual_start}
    return hashes
