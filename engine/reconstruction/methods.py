"""The one table of methods. A new method is an entry here, a module in engine/solvers, and its tests."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from engine.errors import ConfigError
from engine.networks.bundle import REFERENCE, Bundle, load_bundle
from engine.operators.operators import Operators
from engine.reconstruction.method import HandSetWeights, Method, Opening, bundle_that_ships
from engine.reconstruction.method_settings import MethodSettings
from engine.solvers.frame_solver import FrameSolver

DEFAULT_METHOD = "deq"
"""Name of the method that is used where neither a method nor a model is named."""

NETWORK = frozenset({"model", "provider"})
WEIGHTS = frozenset({"weights_file", "weights"})
STEPS = frozenset({"max_iterations", "tolerance"})


@dataclass(frozen=True)
class OpenedMethod:
    """A method, ready for frames.

    Attributes
    ----------
    solver : FrameSolver
        The method bound to its operators.
    bundle : Bundle or None
        Its networks and intervals; None for a method without networks.
    """

    solver: FrameSolver
    bundle: Bundle | None


def open_method(
    name: str | None, operators: Operators, settings: MethodSettings | None = None
) -> FrameSolver:
    """Make the solver of a method; for the arguments and errors see `open_with_bundle`."""
    return open_with_bundle(name, operators, settings).solver


def open_with_bundle(
    name: str | None, operators: Operators, settings: MethodSettings | None = None
) -> OpenedMethod:
    """Make the solver of a method, and return the bundle that it runs on with it.

    Parameters
    ----------
    name : str or None
        Name of the method, a key of `METHODS`; None for that of the model in the settings, else "deq".
    operators : Operators
        Operators of the system matrix.
    settings : MethodSettings, optional
        Model, weights and limits; by default what ships.

    Returns
    -------
    OpenedMethod

    Raises
    ------
    ConfigError
        If the method is unknown, or a setting has no meaning for it.
    BundleError, PairingError, ProviderError
        If the model is missing, made for another method, or cannot be run here.
    """
    settings = settings or MethodSettings()
    bundle = None
    if name is None:
        bundle = None if settings.model is None else load_bundle(settings.model)
        name = DEFAULT_METHOD if bundle is None else bundle.manifest.method
    method = method_named(name)
    for setting in settings.given():
        if setting not in method.settings:
            raise ConfigError(f"{setting} has no meaning for the method {name}; leave it out")
    opening = Opening(name, method, operators, settings, bundle)
    return OpenedMethod(method.open(opening), opening.bundle if method.networks else None)


def default_bundle_path(method: str = DEFAULT_METHOD) -> Path:
    """Return the folder of the bundle that ships with the package for a method.

    Raises
    ------
    ConfigError
        If the method is unknown.
    BundleError
        If it has no networks, or none of its bundles ships.
    """
    return bundle_that_ships(method, method_named(method))


def method_named(name: str) -> Method:
    """Return the entry of a method; raise ConfigError if there is none of that name."""
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}; expected one of {choices()}")
    return METHODS[name]


def hand_set(name: str) -> HandSetWeights:
    """Return how the weights of a method are set by hand; raise ConfigError if it has none."""
    weights = method_named(name).weights
    if weights is None:
        raise ConfigError(
            f"the method {name} has no hand-set weights; expected some of {', '.join(tunable())}"
        )
    return weights


def tunable() -> tuple[str, ...]:
    """Return the methods with hand-set weights, the simplest first: one of several starts from its parts."""
    return tuple(name for name, method in METHODS.items() if method.weights is not None)


def choices() -> str:
    """Return the methods in one line, for messages and help texts."""
    ready = [name for name, method in METHODS.items() if method.works_as_installed]
    others = [name for name in METHODS if name not in ready]
    return f"{', '.join(ready)}, or with --model BUNDLE {', '.join(others)}"


def _least_squares(opening: Opening) -> FrameSolver:
    from engine.solvers.least_squares import LeastSquares

    return LeastSquares(opening.operators)


def _tikhonov(opening: Opening) -> FrameSolver:
    from engine.solvers.tikhonov import Tikhonov

    return Tikhonov(opening.operators, opening.weights())


def _art(opening: Opening) -> FrameSolver:
    from engine.solvers.kaczmarz import Kaczmarz

    settings = opening.settings
    return Kaczmarz(
        opening.operators,
        opening.weights(),
        row_order=settings.row_order or "shuffled",
        row_weighting=settings.row_weighting or "none",
        tolerance=settings.tolerance or 0.0,
    )


def _admm_l1(opening: Opening) -> FrameSolver:
    from engine.solvers.admm.hand_crafted import AdmmL1

    return AdmmL1(opening.operators, opening.weights(), **opening.tolerance())


def _admm_tv(opening: Opening) -> FrameSolver:
    from engine.solvers.admm.hand_crafted import AdmmTv

    return AdmmTv(opening.operators, opening.weights(), **opening.tolerance())


def _admm_hybrid(opening: Opening) -> FrameSolver:
    from engine.solvers.admm.hand_crafted import AdmmHybrid

    return AdmmHybrid(opening.operators, opening.weights(), **opening.tolerance())


def _pp_mpi(opening: Opening) -> FrameSolver:
    from engine.solvers.admm.plug_and_play import PlugAndPlay

    return PlugAndPlay(opening.operators, opening.prior(), opening.weights(), **opening.tolerance())


def _unrolled(opening: Opening) -> FrameSolver:
    from engine.solvers.admm.unrolled import Unrolled

    return Unrolled(opening.operators, opening.prior(), opening.fixed_point().max_iterations)


def _end_to_end(opening: Opening) -> FrameSolver:
    from engine.solvers.end_to_end import EndToEnd

    return EndToEnd(opening.operators, opening.prior())


def _deq_ball(opening: Opening) -> FrameSolver:
    from engine.solvers.admm.ball_equilibrium import BallEquilibrium

    dual_start = opening.bundle.manifest.dual_start
    return BallEquilibrium(opening.operators, opening.prior(), opening.fixed_point(), dual_start)


def _deq(opening: Opening) -> FrameSolver:
    from engine.machine.arithmetic import single_blas_thread
    from engine.solvers.deq.admm_step import AdmmStep
    from engine.solvers.deq.equilibrium import Equilibrium
    from engine.solvers.deq.equilibrium_sequence import EquilibriumSequence
    from engine.solvers.deq.lane_choice import choose_lanes

    operators, settings, bundle = opening.operators, opening.settings, opening.bundle
    if opening.provider != "cpu" and settings.threads not in (None, 1):
        raise ConfigError(
            f"threads is {settings.threads} with provider {opening.provider}; expected 1: the second core "
            "helps where the networks run on the CPU; leave threads out"
        )
    if opening.provider != "cpu" and "step" in bundle.manifest.networks:
        from engine.solvers.deq.on_device import ResidentEquilibrium

        if settings.warm_start:
            raise ConfigError(
                "warm_start is not available where the whole iteration runs on a GPU; leave it out"
            )
        return ResidentEquilibrium.of_bundle(bundle, operators, opening.fixed_point(), opening.provider)
    blocks = opening.prior(), opening.consistency()
    with single_blas_thread():
        lanes = choose_lanes(settings.threads or 1, lambda lanes: AdmmStep(operators, *blocks, lanes))
    kind = EquilibriumSequence if settings.warm_start else Equilibrium
    return kind(operators, *blocks, opening.fixed_point(), bundle.manifest.dual_start, lanes)


def _published_art(snr_db: float) -> tuple[float, ...]:
    return (10.0 if snr_db < 15 else 1.0 if snr_db < 35 else 0.1,)


def _published_hybrid(snr_db: float) -> tuple[float, ...]:
    """Return alpha / mu of Eq. (11) for l1 and TV: alpha_1 in tenths, mu = 10."""
    tenths = 1 if snr_db < 20 else 8 if snr_db < 30 else 9
    return tenths / 100, (10 - tenths) / 100


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "least-squares": Method("the linear start of the iterations", _least_squares),
        "tikhonov": Method(
            "Tikhonov regularisation in closed form",
            _tikhonov,
            WEIGHTS,
            weights=HandSetWeights(("lambda",), _published_art),
        ),
        "art": Method(
            "Kaczmarz with Tikhonov regularisation",
            _art,
            WEIGHTS | STEPS | {"row_order", "row_weighting"},
            weights=HandSetWeights(("lambda",), _published_art, 10, most_iterations=80),
        ),
        "admm-l1": Method(
            "ADMM with the l1 norm",
            _admm_l1,
            WEIGHTS | STEPS,
            weights=HandSetWeights(("l1",), lambda _snr_db: (1 / 250,), 200),
        ),
        "admm-tv": Method(
            "ADMM with total variation",
            _admm_tv,
            WEIGHTS | STEPS,
            weights=HandSetWeights(("tv",), lambda _snr_db: (1 / 50,), 100),
        ),
        "admm-hybrid": Method(
            "ADMM with l1 and total variation",
            _admm_hybrid,
            WEIGHTS | STEPS,
            weights=HandSetWeights(("l1", "tv"), _published_hybrid, 100, parts=("admm-l1", "admm-tv")),
        ),
        "pp-mpi": Method(
            "ADMM with a trained denoiser",
            _pp_mpi,
            WEIGHTS | NETWORK | STEPS,
            networks=("rdn",),
            ships="denoiser",
            # A denoiser was trained for one noise level, and a pass of it takes long.
            weights=HandSetWeights(("scale",), lambda _snr_db: (1.0,), 150, ladder=1, most_iterations=160),
        ),
        "unrolled": Method(
            "a few trained ADMM iterations", _unrolled, NETWORK | {"max_iterations"}, networks=("rdn",)
        ),
        "end-to-end": Method("a network alone", _end_to_end, NETWORK, networks=("rdn",)),
        "deq-ball": Method(
            "deep equilibrium without learned consistency",
            _deq_ball,
            NETWORK | STEPS | {"solver"},
            networks=("rdn",),
        ),
        "deq": Method(
            "deep equilibrium",
            _deq,
            NETWORK | STEPS | {"solver", "threads", "warm_start"},
            networks=("rdn", "lc"),
            optional_networks=("step",),
            ships=REFERENCE,
        ),
    }
)
"""The methods by name, the simplest first."""
