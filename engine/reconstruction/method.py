"""What makes a reconstruction method, and what one is opened with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import BundleError, ConfigError
from engine.fixed_point.config import FixedPointConfig
from engine.networks.bundle import Bundle, load_bundle, shipped_bundle_path
from engine.operators.operators import Operators
from engine.reconstruction.method_settings import MethodSettings
from engine.solvers.frame_solver import FrameSolver
from engine.solvers.regularization import MethodWeights, SnrCurve, load_weights

if TYPE_CHECKING:
    from engine.networks.sessions import OnnxConsistency, OnnxPrior


@dataclass(frozen=True)
class HandSetWeights:
    """The weights of a method that are set by hand, and how they are chosen.

    Attributes
    ----------
    names : tuple of str
        Their names, in the order in which `published` gives values.
    published : callable
        From the measurement SNR in dB to the values of the paper (Sec. IV-A), where the tuning starts; for a
        method that is not in the paper, to those of one with the same functional.
    published_iterations : int or None
        Iterations or sweeps in the paper; None if the method is not in it.
    parts : tuple of str
        Methods of one weight each that together start the search of a method of several.
    ladder : int
        Half decades on both sides of the start of a single weight that are tried in any case.
    most_iterations : int
        The largest number of iterations that can be chosen.
    """

    names: tuple[str, ...]
    published: Callable[[float], tuple[float, ...]]
    published_iterations: int | None = None
    parts: tuple[str, ...] = ()
    ladder: int = 3
    most_iterations: int = 320

    def published_at(self, snr_db: float) -> dict[str, float]:
        """Return the paper's values by name at a measurement SNR in dB."""
        return dict(zip(self.names, self.published(snr_db), strict=True))


@dataclass(frozen=True)
class Method:
    """One method: everything that the rest of the package needs to know of it.

    Attributes
    ----------
    title : str
        What it is, in a few words.
    open : callable
        Makes the solver of an `Opening`; imports what it needs only then.
    settings : frozenset of str
        Fields of `MethodSettings` that have a meaning for it.
    networks : tuple of str
        Roles of the networks that a bundle of it consists of; empty for a method without networks.
    optional_networks : tuple of str
        Roles that a bundle of it may have besides.
    ships : str or None
        Name of the bundle in the package that it uses by default; None if none ships.
    weights : HandSetWeights or None
        Its hand-set weights; None for a method without.
    """

    title: str
    open: Callable[["Opening"], FrameSolver]
    settings: frozenset[str] = frozenset()
    networks: tuple[str, ...] = ()
    optional_networks: tuple[str, ...] = ()
    ships: str | None = None
    weights: HandSetWeights | None = None

    @property
    def iterates(self) -> bool:
        """Whether a limit on its iterations can be set, which a bundle of it then states."""
        return "max_iterations" in self.settings

    @property
    def is_equilibrium(self) -> bool:
        """Whether it solves for a fixed point, whose start and solver are a matter of speed."""
        return "solver" in self.settings

    @property
    def works_as_installed(self) -> bool:
        """Whether it has no networks, or some that ship."""
        return not self.networks or self.ships is not None


class Opening:
    """A method on its way to a solver: operators, settings, and what these stand for.

    Parameters
    ----------
    name : str
        Name of the method.
    method : Method
        Its entry in the table.
    operators : Operators
        Operators of the system matrix.
    settings : MethodSettings
        Model, weights and limits.
    bundle : Bundle, optional
        Bundle of the settings' model, where it was read already.
    """

    def __init__(
        self,
        name: str,
        method: Method,
        operators: Operators,
        settings: MethodSettings,
        bundle: Bundle | None = None,
    ) -> None:
        self.name = name
        self.method = method
        self.operators = operators
        self.settings = settings
        self._given = bundle

    @cached_property
    def bundle(self) -> Bundle:
        """Bundle of the settings, else the one that ships, read once.

        Raises
        ------
        BundleError
            If none ships for the method, or the bundle is one of another method or lacks a network.
        """
        bundle = self._given
        if bundle is None:
            bundle = load_bundle(self.settings.model or bundle_that_ships(self.name, self.method))
        require_bundle_of(bundle, self.name, self.method)
        return bundle

    @property
    def provider(self) -> str:
        """Where the networks run."""
        return self.settings.provider or "cpu"

    def prior(self) -> "OnnxPrior":
        """Open Psi_RDN, or whichever image network the bundle has."""
        from engine.networks.sessions import OnnxPrior

        return OnnxPrior(self.bundle, self.provider, self._lengths())

    def consistency(self) -> "OnnxConsistency":
        """Open Psi_LC."""
        from engine.networks.sessions import OnnxConsistency

        return OnnxConsistency(self.bundle, self.provider, self._lengths())

    def _lengths(self) -> Mapping[str, int] | None:
        """Return the lengths of the axes that a plan has to hold; other runtimes take any."""
        if self.provider == "cpu":
            return None
        from engine.networks.axis_ranges import axis_lengths

        return axis_lengths(self.operators)

    def fixed_point(self) -> FixedPointConfig:
        """Return the solver settings of the bundle with the user's choices on top."""
        settings, config = self.settings, self.bundle.require_solver()
        if settings.solver == "plain":
            config = replace(config, memory=0, beta=1.0)
        elif settings.solver == "anderson" and config.memory == 0:
            config = replace(config, memory=FixedPointConfig().memory)
        if settings.max_iterations is not None:
            config = replace(config, max_iterations=settings.max_iterations)
        if settings.tolerance is not None:
            config = replace(config, tolerance=settings.tolerance)
        return config

    def weights(self) -> MethodWeights:
        """Return the hand-set weights; see `weights_of`."""
        return weights_of(self.name, self.method, self.settings)

    def tolerance(self) -> Mapping[str, float]:
        """Return the tolerance as a keyword, if one was set: the solver's own default holds otherwise."""
        return {} if self.settings.tolerance is None else {"tolerance": self.settings.tolerance}


def weights_of(name: str, method: Method, settings: MethodSettings) -> MethodWeights:
    """Return the hand-set weights of a method: the settings' own, else those of the file.

    Raises
    ------
    ConfigError
        If the file does not hold the method, or other weights than its own, or a weight of the settings is
        none of them.
    """
    names = () if method.weights is None else method.weights.names
    has_iterations = settings.max_iterations is not None or not method.iterates
    if set(settings.weights) == set(names) and has_iterations:  # a file has nothing to add
        base = MethodWeights(dict.fromkeys(names, SnrCurve.constant(1.0)), 1)
    else:
        base = _tuned_weights(name, names, settings)
    try:
        weights = base.with_weights(settings.weights)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    if settings.max_iterations is not None:
        weights = replace(weights, iterations=settings.max_iterations)
    return weights


def _tuned_weights(name: str, names: tuple[str, ...], settings: MethodSettings) -> MethodWeights:
    """Return the weights of a file; all of them must be there, and no others."""
    file = settings.weights_file or "the file that ships"
    table = load_weights(settings.weights_file)
    if name not in table:
        raise ConfigError(
            f"{file} holds no weights of {name}, only of {', '.join(table)}; tune it with engine tune "
            f"--methods {name}"
        )
    if set(table[name].curves) != set(names):
        raise ConfigError(
            f"{file}: the weights of {name} are {sorted(table[name].curves)}; expected {sorted(names)}"
        )
    return table[name]


def bundle_that_ships(name: str, method: Method) -> Path:
    """Return the folder of the bundle that ships for a method.

    Raises
    ------
    BundleError
        If the method has no networks, or none of its bundles ships.
    """
    if not method.networks:
        raise BundleError(f"the method {name} has no networks; expected one that has: leave the model out")
    if method.ships is None:
        raise BundleError(
            f"no networks of the method {name} ship; expected a bundle of it; name one with --model BUNDLE"
        )
    return shipped_bundle_path(method.ships)


def require_bundle_of(bundle: Bundle, name: str, method: Method) -> None:
    """Raise BundleError unless a bundle is of a method, with its networks and solver settings."""
    bundle.require_method(name)
    roles = set(bundle.manifest.networks)
    if not set(method.networks) <= roles <= {*method.networks, *method.optional_networks}:
        raise BundleError(
            f"the bundle {bundle.path} of method {name} has the networks {', '.join(sorted(roles))}; "
            f"expected {', '.join(method.networks)}; export it again"
        )
    if (bundle.manifest.solver is not None) != method.iterates:
        raise BundleError(
            f"the bundle {bundle.path} has {'no ' if method.iterates else ''}solver settings; expected "
            f"{'some' if method.iterates else 'none'} for the method {name}; export it again"
        )
    if bundle.manifest.dual_start and not method.is_equilibrium:
        raise BundleError(
            f"the bundle {bundle.path} has a dual_start of {bundle.manifest.dual_start:g}; expected 0 for "
            f"the method {name}, which starts with zero duals; export it again"
        )
