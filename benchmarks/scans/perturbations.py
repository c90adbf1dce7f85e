"""What the robustness report changes about the scan or the frames, in groups of the same kind."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.scans.perturbed_frames import (
    DEGREES_OF_FREEDOM,
    IMPULSE_FACTOR,
    IMPULSE_SHARE,
    Factor,
    falling_with_frequency,
    heavy_tails,
    impulses,
    with_concentration,
    with_noise_factor,
)
from benchmarks.scans.perturbed_scans import (
    not_recalibrated,
    recalibrated,
    with_calibration_noise,
    with_core_diameter,
    with_turn,
)
from benchmarks.scans.scans import TRAIN_GRADIENT, frames_of_test_split, reference_scan
from engine.mpi.simulation.scanner import FflScanner
from engine.operators.operators import Operators
from engine.tuning.emulation import Frames, Scan, emulate_frames

OTHER_GRADIENT = 0.6
"""T/m."""

CORE_FACTORS = {"+10 %": 1.1, "-10 %": 0.9}

TURN = 1.0
"""Degrees."""

CALIBRATION_NOISE = (1.0, 2.0)

TOLD_ERRORS = (-20.0, -10.0, 10.0, 20.0)
"""dB by which the noise level that a method is told differs from the true one."""

GAINS = (0.1, 10.0)
"""Concentrations relative to that of the test phantoms."""


@dataclass(frozen=True)
class Trial:
    """Frames and what they are reconstructed with.

    Attributes
    ----------
    operators : Operators
        Of the system matrix that the method is given.
    frames : Frames
        Rows in the unit of these operators.
    sigma : float or None
        Noise level per real row that the method is told, in whitened units; None to have it estimated.
    """

    operators: Operators
    frames: Frames
    sigma: float | None = None


@dataclass(frozen=True)
class Perturbation:
    """One change.

    Attributes
    ----------
    name : str
        In the column "perturbation"; unique.
    make : callable
        From a number of frames and a mean SNR in dB to the trial. The phantoms are always the first of the
        test split, in order.
    """

    name: str
    make: Callable[[int, float], Trial]


@dataclass(frozen=True)
class Group:
    """Changes of one kind: heading, what the simulation does, and the changes."""

    name: str
    text: str
    perturbations: tuple[Perturbation, ...]


def _unperturbed(count: int, snr: float) -> Trial:
    return Trial(reference_scan(TRAIN_GRADIENT).operators, frames_of_test_split(TRAIN_GRADIENT, count, snr))


def _on_other_gradient(count: int, snr: float) -> Trial:
    return Trial(reference_scan(OTHER_GRADIENT).operators, frames_of_test_split(OTHER_GRADIENT, count, snr))


def _on_scan(make_scan: Callable[[], Scan], count: int, snr: float) -> Trial:
    scan = make_scan()
    return Trial(scan.operators, emulate_frames(scan, count, snr))


def _with_cores(make_scan: Callable[[FflScanner], Scan], factor: float) -> Scan:
    return make_scan(with_core_diameter(factor))


def _turned() -> Scan:
    return not_recalibrated(with_turn(TURN))


def _noise_of_kind(factor: Factor, count: int, snr: float) -> Trial:
    scan = reference_scan(TRAIN_GRADIENT)
    frames = with_noise_factor(scan, frames_of_test_split(TRAIN_GRADIENT, count, snr), factor)
    return Trial(scan.operators, frames)


def _told(error: float, count: int, snr: float) -> Trial:
    trial = _unperturbed(count, snr)
    sigma = trial.frames.noise_std * trial.operators.scale * 10 ** (error / 20)
    return Trial(trial.operators, trial.frames, sigma)


def _at_concentration(gain: float, count: int, snr: float) -> Trial:
    scan = reference_scan(TRAIN_GRADIENT)
    frames = with_concentration(scan, frames_of_test_split(TRAIN_GRADIENT, count, snr), gain)
    return Trial(scan.operators, frames)


UNPERTURBED = Perturbation("none", _unperturbed)

GROUPS = (
    Group(
        "gradient",
        "Selection field of 0.6 in place of 0.5 T/m. The system matrix is calibrated again, rows and "
        "whitening are its own; the networks and weights stay those of 0.5 T/m.",
        (Perturbation("0.6 T/m, calibrated again", _on_other_gradient),),
    ),
    Group(
        "tracer",
        "Diameter of the magnetic cores changed by 10 %, with it the steepness of the Langevin curve by "
        "33 or -27 % and the share of the higher harmonics; the saturation moment of the sample stays. "
        "Not calibrated again: the data come from the changed tracer, the matrix is that of the old one, "
        "and errors of the concentration's scale count. Calibrated again: a new tracer, for which only "
        "the networks and weights are old.",
        tuple(
            Perturbation(
                f"cores {change}, {name} again",
                partial(_on_scan, partial(_with_cores, make, factor)),
            )
            for name, make in (("not calibrated", not_recalibrated), ("calibrated", recalibrated))
            for change, factor in CORE_FACTORS.items()
        ),
    ),
    Group(
        "geometry",
        f"All FFL angles of the measurement are {TURN:g} degree off those of the calibration. The data are "
        f"those of a phantom turned by {TURN:g} degree, while the truth is not turned: part of the loss is "
        "displacement, 0.2 voxels at the ends of the field of view.",
        (Perturbation("FFL turned by 1 degree", partial(_on_scan, _turned)),),
    ),
    Group(
        "noise of the calibration",
        "Emulated data come from the measured matrix, so that its noise counts as response. Here they "
        "come from the noise-free response, and the matrix to reconstruct with is measured with its usual "
        "noise (x1) or twice as much (x2); rows and whitening stay.",
        tuple(
            Perturbation(
                f"noise of the matrix x{factor:g}",
                partial(_on_scan, partial(with_calibration_noise, factor)),
            )
            for factor in CALIBRATION_NOISE
        ),
    ),
    Group(
        "kind of noise",
        "The noise of every row is multiplied by a factor, with the power of the noise in each frame as "
        "it was. 1/f: standard deviation inverse to the frequency, while the whitening takes the noise as "
        f"white. Impulses: {100 * IMPULSE_SHARE:g} % of the rows of a frame, at random, with "
        f"{IMPULSE_FACTOR:g} times the standard deviation of the others. Heavy tails: Student's t of "
        f"{DEGREES_OF_FREEDOM:g} degrees of freedom.",
        (
            Perturbation("1/f noise", partial(_noise_of_kind, falling_with_frequency)),
            Perturbation("impulses", partial(_noise_of_kind, impulses)),
            Perturbation("heavy tails", partial(_noise_of_kind, heavy_tails)),
        ),
    ),
    Group(
        "noise level told wrong",
        "The method is told a noise level, in place of its own estimate, that is wrong by so many dB: bound "
        "epsilon and, where networks see it, their noise level. Positive: told more noise than there is.",
        tuple(Perturbation(f"told {error:+g} dB", partial(_told, error)) for error in TOLD_ERRORS),
    ),
    Group(
        "concentration at the same noise",
        "Less or more tracer with the noise as it was: the SNR changes by 20 dB, and with it what can be "
        "reached. pSNR is relative to the peak of the new truth.",
        tuple(Perturbation(f"tracer x{gain:g}", partial(_at_concentration, gain)) for gain in GAINS),
    ),
)
"""All changes that are measured as a loss against the unperturbed frames."""
