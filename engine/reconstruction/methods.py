"""The reconstruction methods by name, and how each one is opened."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from engine.errors import ConfigError
from engine.fixed_point.config import FixedPointConfig
from engine.networks.axis_ranges import axis_lengths
from engine.networks.bundle import SHIPPED, Bundle, load_bundle
from engine.operators.operators import Operators
from engine.reconstruction.method_settings import MethodSettings
from engine.solvers.frame_solver import FrameSolver
from engine.solvers.regularization import MethodWeights, load_weights

DEFAULT_METHOD = "deq"
"""Name of the method that is used where neither a method nor a model is named."""

Opener = Callable[[Operators, MethodSettings], FrameSolver]

NETWORK = frozenset({"model", "provider"})
WEIGHTS = frozenset({"weights_file", "weights", "max_iterations"})


@dataclass(frozen=True)
class Method:
    """One method: what it is, and how it is opened.

    Attributes
    ----------
    title : str
        Description in a few words.
    open : callable
        Function that makes the solver, and imports what it needs only then.
    settings : frozenset of str
        Fields of `MethodSettings` that have a meaning for it.
    """

    title: str
    open: Opener
    settings: frozenset[str]

    @property
    def needs_model(self) -> bool:
        """Whether it iterates a network."""
        return "model" in self.settings


def open_method(
    name: str | None, operators: Operators, settings: MethodSettings | None = None
) -> FrameSolver:
    """Make the solver of a method.

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
    FrameSolver

    Raises
    ------
    ConfigError
        If the method is unknown, or a setting has no meaning for it.
    BundleError, PairingError, ProviderError
        If the model is missing, made for another method, or cannot be run here.
    """
    settings = settings or MethodSettings()
    if name is None:
        name = DEFAULT_METHOD if settings.model is None else load_bundle(settings.model).manifest.method
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}; expected one of {CHOICES}")
    method = METHODS[name]
    for setting in settings.given():
        if setting not in method.settings:
            raise ConfigError(f"{setting} has no meaning for the method {name}; leave it out")
    return method.open(operators, settings)


def bundle_of(name: str, settings: MethodSettings) -> Bundle:
    """Open the bundle of a method: the one of the settings, else the one that ships.

    Raises
    ------
    BundleError
        If none ships for the method, or the bundle is one of another method.
    """
    from engine.networks.bundle import default_bundle_path

    bundle = load_bundle(default_bundle_path(name) if settings.model is None else settings.model)
    bundle.require_method(name)
    return bundle


def weights_of(name: str, settings: MethodSettings) -> MethodWeights:
    """Return the hand-set weights of a method: those of the file, with the settings' own values on top.

    Raises
    ------
    ConfigError
        If the file does not hold the method, or a weight of the settings is not one of its weights.
    """
    table = load_weights(settings.weights_file)
    if name not in table:
        raise ConfigError(
            f"{settings.weights_file} holds no weights of {name}, only of {', '.join(table)}; tune it with "
            f"engine tune --methods {name}"
        )
    try:
        weights = table[name].with_constants(settings.weights)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    if settings.max_iterations is not None:
        weights = replace(weights, iterations=settings.max_iterations)
    return weights


def fixed_point_of(bundle: Bundle, settings: MethodSettings) -> FixedPointConfig:
    """Return the solver settings of a bundle with the user's choices on top."""
    config = bundle.require_solver()
    if settings.solver == "plain":
        config = replace(config, memory=0, beta=1.0)
    elif settings.solver == "anderson" and config.memory == 0:
        config = replace(config, memory=FixedPointConfig().memory)
    if settings.max_iterations is not None:
        config = replace(config, max_iterations=settings.max_iterations)
    if settings.tolerance is not None:
        config = replace(config, tolerance=settings.tolerance)
    return config


def _least_squares(operators: Operators, _settings: MethodSettings) -> FrameSolver:
    from engine.solvers.least_squares import LeastSquares

    return LeastSquares(operators)


def _cg_tikhonov(operators: Operators, settings: MethodSettings) -> FrameSolver:
    from engine.solvers.tikhonov import CgTikhonov

    return CgTikhonov(operators, weights_of("cg-tikhonov", settings), **_tolerance(settings))


def _art(operators: Operators, settings: MethodSettings) -> FrameSolver:
    from engine.solvers.kaczmarz import Kaczmarz

    return Kaczmarz(
        operators,
        weights_of("art", settings),
        row_order=settings.row_order or "shuffled",
        row_weighting=settings.row_weighting or "none",
        tolerance=settings.tolerance or 0.0,
    )


def _admm_l1(operators: Operators, settings: MethodSettings) -> FrameSolver:
    from engine.solvers.admm.hand_crafted import AdmmL1

    return AdmmL1(operators, weights_of("admm-l1", settings), **_tolerance(settings))


def _admm_tv(operators: Operators, settings: MethodSettings) -> FrameSolver:
    from engine.solvers.admm.hand_crafted import AdmmTv

    return AdmmTv(operators, weights_of("admm-tv", settings), **_tolerance(settings))


def _admm_hybrid(operators: Operators, settings: MethodSettings) -> FrameSolver:
    from engine.solvers.admm.hand_crafted import AdmmHybrid

    return AdmmHybrid(operators, weights_of("admm-hybrid", settings), **_tolerance(settings))


def _pp_mpi(operators: Operators, settings: MethodSettings) -> FrameSolver:
    from engine.networks.sessions import OnnxPrior
    from engine.solvers.admm.plug_and_play import PlugAndPlay

    prior = OnnxPrior(bundle_of("pp-mpi", settings), *_place(operators, settings))
    return PlugAndPlay(operators, prior, weights_of("pp-mpi", settings), **_tolerance(settings))


def _tolerance(settings: MethodSettings) -> dict[str, float]:
    """Return the tolerance as a keyword, if one was set: the solver's own default holds otherwise."""
    return {} if settings.tolerance is None else {"tolerance": settings.tolerance}


def _deq(operators: Operators, settings: MethodSettings) -> FrameSolver:
    from engine.machine.arithmetic import single_blas_thread
    from engine.networks.sessions import OnnxConsistency, OnnxPrior
    from engine.solvers.deq.admm_step import AdmmStep
    from engine.solvers.deq.equilibrium import Equilibrium
    from engine.solvers.deq.equilibrium_sequence import EquilibriumSequence
    from engine.solvers.deq.lane_choice import choose_lanes

    bundle = bundle_of("deq", settings)
    if (settings.provider or "cpu") != "cpu" and settings.threads not in (None, 1):
        raise ConfigError(
            f"threads is {settings.threads} with provider {settings.provider}; expected 1: the second core "
            "helps where the networks run on the CPU; leave threads out"
        )
    if settings.provider == "cuda" and "step" in bundle.manifest.networks:
        from engine.solvers.deq.on_device import ResidentEquilibrium

        if settings.warm_start:
            raise ConfigError(
                "warm_start is not available where the whole iteration runs on a GPU; leave it out"
            )
        return ResidentEquilibrium.of_bundle(bundle, operators, fixed_point_of(bundle, settings))
    place = _place(operators, settings)
    blocks = OnnxPrior(bundle, *place), OnnxConsistency(bundle, *place)
    with single_blas_thread():
        lanes = choose_lanes(settings.threads or 1, lambda lanes: AdmmStep(operators, *blocks, lanes))
    kind = EquilibriumSequence if settings.warm_start else Equilibrium
    return kind(operators, *blocks, fixed_point_of(bundle, settings), bundle.manifest.dual_start, lanes)


def _deq_ball(operators: Operators, settings: MethodSettings) -> FrameSolver:
    from engine.networks.sessions import OnnxPrior
    from engine.solvers.admm.ball_equilibrium import BallEquilibrium

    bundle = bundle_of("deq-ball", settings)
    prior = OnnxPrior(bundle, *_place(operators, settings))
    return BallEquilibrium(operators, prior, fixed_point_of(bundle, settings), bundle.manifest.dual_start)


def _unrolled(operators: Operators, settings: MethodSettings) -> FrameSolver:
    from engine.networks.sessions import OnnxPrior
    from engine.solvers.admm.unrolled import Unrolled

    bundle = bundle_of("unrolled", settings)
    iterations = fixed_point_of(bundle, settings).max_iterations
    return Unrolled(operators, OnnxPrior(bundle, *_place(operators, settings)), iterations)


def _end_to_end(operators: Operators, settings: MethodSettings) -> FrameSolver:
    from engine.networks.sessions import OnnxPrior
    from engine.solvers.end_to_end import EndToEnd

    return EndToEnd(operators, OnnxPrior(bundle_of("end-to-end", settings), *_place(operators, settings)))


def _place(operators: Operators, settings: MethodSettings) -> tuple[str, Mapping[str, int]]:
    """Return where the networks run, and the lengths of the axes that TensorRT has to know beforehand."""
    return settings.provider or "cpu", axis_lengths(operators)


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "least-squares": Method("the linear start of the iterations", _least_squares, frozenset()),
        "cg-tikhonov": Method(
            "Tikhonov regularisation by conjugate gradients", _cg_tikhonov, WEIGHTS | {"tolerance"}
        ),
        "art": Method(
            "Kaczmarz with Tikhonov regularisation",
            _art,
            WEIGHTS | {"tolerance", "row_order", "row_weighting"},
        ),
        "admm-l1": Method("ADMM with the l1 norm", _admm_l1, WEIGHTS | {"tolerance"}),
        "admm-tv": Method("ADMM with total variation", _admm_tv, WEIGHTS | {"tolerance"}),
        "admm-hybrid": Method("ADMM with l1 and total variation", _admm_hybrid, WEIGHTS | {"tolerance"}),
        "pp-mpi": Method("ADMM with a trained denoiser", _pp_mpi, WEIGHTS | NETWORK | {"tolerance"}),
        "unrolled": Method("a few trained ADMM iterations", _unrolled, NETWORK | {"max_iterations"}),
        "end-to-end": Method("a network alone", _end_to_end, NETWORK),
        "deq-ball": Method(
            "deep equilibrium without learned consistency",
            _deq_ball,
            NETWORK | {"solver", "max_iterations", "tolerance"},
        ),
        "deq": Method(
            "deep equilibrium",
            _deq,
            NETWORK | {"solver", "max_iterations", "tolerance", "threads", "warm_start"},
        ),
    }
)
"""The methods by name, the simplest first."""

OUT_OF_THE_BOX = tuple(name for name, method in METHODS.items() if not method.needs_model or name in SHIPPED)
"""Methods that work as installed: they have no networks, or some that ship."""

WITH_A_BUNDLE = tuple(name for name in METHODS if name not in OUT_OF_THE_BOX)
"""Methods whose networks do not ship: they need a bundle that the user names."""

CHOICES = f"{', '.join(OUT_OF_THE_BOX)}, or with --model BUNDLE {', '.join(WITH_A_BUNDLE)}"
"""The methods in one line, for messages and help texts."""
