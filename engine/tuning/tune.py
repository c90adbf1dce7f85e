"""Cross-validation of the hand-set weights: the values with the highest mean pSNR on the validation split.

At every SNR the weights are searched on a logarithmic lattice, from the paper's values outwards. One number
of iterations serves all SNRs of a method: the smallest of a doubling ladder than which no other is clearly
better, each with the weights that are best at it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from engine.errors import ConfigError
from engine.reconstruction.methods import METHODS, hand_set, open_method, tunable
from engine.solvers.regularization import MethodWeights, SnrCurve, load_weights
from engine.tuning.emulation import Scan, emulate_frames
from engine.tuning.judge import Judge, settings_of
from engine.tuning.result import MethodTuning, Trial, TuningConfig, TuningResult
from engine.tuning.search import Lattice, Point, climb, ladder

REACH_DECADES = 2
"""Largest distance of a weight from the paper's value, in factors of ten. Far beyond, a weight no
longer does what it stands for: a threshold above the peak of the image is no longer an l1 norm."""

PLATEAU_DB = 1e-3
"""Gain in dB that a step of the search has to exceed: weights with mean pSNRs closer than this are equal."""

MIN_GAIN_DB = 0.05
"""Gain in mean pSNR over all SNRs that makes more iterations worth their time (the L-curve's corner)."""

ITERATIONS = (5, 10, 20, 40, 80, 160, 320)
"""Numbers of iterations that can be chosen."""


def tune(
    scan: Scan,
    methods: Sequence[str] | None = None,
    config: TuningConfig | None = None,
    on_trial: Callable[[Trial], None] | None = None,
) -> TuningResult:
    """Choose the hand-set weights of methods for one system matrix.

    Parameters
    ----------
    scan : Scan
        Scan of one slice.
    methods : sequence of str, optional
        Some of `engine.reconstruction.methods.tunable`; by default all.
    config : TuningConfig, optional
        SNRs, frames and the values that can be chosen.
    on_trial : callable, optional
        Function that is told every trial when it is done.

    Returns
    -------
    TuningResult

    Raises
    ------
    ConfigError
        If a method is unknown or has no hand-set weights, or a model was given that no method needs.
    BundleError
        If the denoiser of pp-mpi is missing or the bundle is one of another method.
    InputError
        If the grid has several slices.
    PairingError
        If the matrix has too few rows to estimate the noise.
    """
    config = config or TuningConfig()
    ordered = _in_order(tunable() if methods is None else methods)
    if config.model is not None and not any(METHODS[method].networks for method in ordered):
        raise ConfigError(f"a model has no meaning for {', '.join(ordered)}; leave it out or tune pp-mpi too")
    for method in ordered:
        weights = hand_set(method).published_at(min(config.snr_db))
        settings = replace(settings_of(method, config.model), weights=weights)
        open_method(method, scan.operators, settings)  # what is missing shows now
    frames = {
        snr: emulate_frames(scan, config.frames, snr, config.seed, "validation")
        for snr in sorted(config.snr_db)
    }
    found: dict[str, MethodTuning] = {}
    for method in ordered:
        judge = Judge(method, scan.operators, frames, config.model, on_trial)
        found[method] = _tune_method(judge, config.lattice, found)
    return TuningResult(config, found)


def _in_order(methods: Sequence[str]) -> list[str]:
    if not methods:
        raise ConfigError(f"there is no method to tune; expected some of {', '.join(tunable())}")
    for method in methods:
        hand_set(method)
    return [method for method in tunable() if method in methods]


def _tune_method(judge: Judge, lattice: Lattice, found: Mapping[str, MethodTuning]) -> MethodTuning:
    method, hand = judge.method, hand_set(judge.method)
    published: tuple[Trial, ...] = ()
    if hand.published_iterations is not None:
        published = tuple(
            judge.trial(snr, hand.published(snr), hand.published_iterations) for snr in judge.snr_db
        )
    points, iterations = _best_points(judge, lattice, found)
    chosen = tuple(judge.trial(snr, lattice.values(points[snr]), iterations) for snr in judge.snr_db)
    curves = {
        name: SnrCurve(judge.snr_db, tuple(trial.weights[name] for trial in chosen)) for name in hand.names
    }
    weights = MethodWeights(curves, iterations)
    at_limit = len(_iterations(method)) > 1 and iterations == _iterations(method)[-1]
    at_limit = at_limit or any(
        place in limits
        for snr, point in points.items()
        for place, limits in zip(point, zip(*_box(method, snr, lattice), strict=True), strict=True)
    )
    return MethodTuning(weights, chosen, published, judge.as_used(weights), at_limit, judge.trials)


def _best_points(
    judge: Judge, lattice: Lattice, found: Mapping[str, MethodTuning]
) -> tuple[dict[float, Point], int]:
    """Return the best weights at every SNR, and the number of iterations that they are the best at."""
    *coarse, finest = lattice.steps
    starts = {snr: _starts(judge, snr, lattice, found) for snr in judge.snr_db}
    points: dict[int, dict[float, Point]] = {}
    means: dict[int, float] = {}
    for iterations in _iterations(judge.method):
        points[iterations] = best = {
            snr: _best_point(judge, snr, iterations, starts[snr], coarse or [finest], lattice)
            for snr in judge.snr_db
        }
        trials = [judge.trial(snr, lattice.values(point), iterations) for snr, point in best.items()]
        means[iterations] = fmean(trial.psnr_mean for trial in trials)
        # The optimum moves little when the number is doubled: no coarsest step any more.
        starts = {snr: [point] for snr, point in best.items()}
        coarse = coarse[-1:]
    enough = next(count for count, mean in means.items() if max(means.values()) - mean < MIN_GAIN_DB)
    refined = {
        snr: _best_point(judge, snr, enough, [point], [finest], lattice)
        for snr, point in points[enough].items()
    }
    return refined, enough


def _iterations(method: str) -> list[int]:
    """Return the numbers of iterations to choose from; one in closed form has no choice."""
    if not METHODS[method].iterates:
        return [1]
    return [count for count in ITERATIONS if count <= hand_set(method).most_iterations]


def _best_point(
    judge: Judge, snr: float, iterations: int, starts: Sequence[Point], steps: Sequence[int], lattice: Lattice
) -> Point:
    def score(point: Point) -> float:
        return judge.trial(snr, lattice.values(point), iterations).psnr_mean

    if not hand_set(judge.method).parts:
        starts = [max(starts, key=score)]  # the best rung of the ladder
    box = _box(judge.method, snr, lattice)
    return max((climb(score, start, steps, box, PLATEAU_DB) for start in starts), key=score)


def _starts(judge: Judge, snr: float, lattice: Lattice, found: Mapping[str, MethodTuning]) -> list[Point]:
    """Return the points from which the best one is looked for first."""
    hand = hand_set(judge.method)
    start = lattice.place(hand.published(snr))
    if not hand.parts:
        return ladder(start[0], hand.ladder, lattice.half_decade)
    shipped = load_weights()
    parts: list[float] = []
    for name, part in zip(hand.names, hand.parts, strict=True):
        weights = found[part].weights if part in found else shipped[part]
        parts.append(weights.at(snr)[name])
    return [start, lattice.place(parts)]


def _box(method: str, snr: float, lattice: Lattice) -> tuple[Point, Point]:
    centre = lattice.place(hand_set(method).published(snr))
    reach = REACH_DECADES * lattice.per_decade
    return tuple(place - reach for place in centre), tuple(place + reach for place in centre)
