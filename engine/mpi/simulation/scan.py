"""Simulated scans of the reference scanner as MDF files: calibrations and phantom measurements."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import shift

from engine.errors import InputError
from engine.mpi.mdf import Acquisition, MdfFile, Scanner, Tracer
from engine.mpi.mdf import new_files as mdf_factory
from engine.mpi.preprocess import row_snr
from engine.mpi.simulation.phantoms import Split, box_average, fine_vessel_images
from engine.mpi.simulation.scanner import PRESETS, FflScanner, angle_responses

REFINEMENT = 4
"""Fine voxels per calibration voxel and axis: measurements are made on a grid four times as fine."""

SNR_LIMIT = 200.0
"""Largest magnitude of a measurement SNR in dB; single precision resolves 144 dB."""

SWAY_VOXELS = 3.0
"""Amplitude of a phantom that sways: with 46 frames it moves by up to 0.4 voxels per frame."""

SELECTION_SNR = 5.0
"""Signal-to-noise ratio above which rows define the measurement SNR, as they are the ones reconstructed."""

CALIBRATION_BACKGROUND_FRAMES = 100
"""Background frames of a calibration; they fix the whitening to 5 % per row."""

MEASUREMENT_BACKGROUND_FRAMES = 40
"""Background frames of a measurement; their mean adds 1/40 of the noise power of a frame."""


@dataclass(frozen=True)
class ReceiverNoise:
    """Departures of the receiver's noise from white Gaussian noise.

    Attributes
    ----------
    colour : float
        Exponent: the standard deviation falls with frequency as f^-colour; 0 is white.
    degrees_of_freedom : float
        Parameter of Student's t distribution, more than 2; infinity is Gaussian.
    drift : float
        Relative change of the background signal from the first to the last frame of a scan.
    """

    colour: float = 0.0
    degrees_of_freedom: float = np.inf
    drift: float = 0.0

    def __post_init__(self) -> None:
        if not np.isfinite(self.colour):
            raise InputError(f"colour of the noise is {self.colour}; expected a finite number")
        if not np.isfinite(self.drift):
            raise InputError(f"drift of the background is {self.drift}; expected a finite number")
        if not self.degrees_of_freedom > 2:
            raise InputError(
                f"degrees of freedom of the noise are {self.degrees_of_freedom}; expected more than 2, "
                "below that the variance is infinite"
            )


def row_noise_std(scanner: FflScanner, noise: ReceiverNoise) -> NDArray[np.float64]:
    """Return the noise standard deviation per real component in V, float64 (J, 1, K)."""
    middle = np.sqrt(scanner.frequencies[0] * scanner.frequencies[-1])
    std: NDArray[np.float64] = scanner.noise_voltage * (scanner.frequencies / middle) ** -noise.colour
    return np.array(np.broadcast_to(std, (scanner.n_angles, 1, len(std))))


def system_response(scanner: FflScanner) -> NDArray[np.complex128]:
    """Return the noise-free system matrix of a box-shaped calibration sample.

    Returns
    -------
    ndarray of complex128, shape (N, J, 1, K)
        Signal in V per unit concentration, one column of the system matrix per voxel of `scanner.grid`.
    """
    nx, ny, _ = scanner.grid.size
    response = np.empty((scanner.grid.n_voxels, scanner.n_angles, 1, len(scanner.bins)), np.complex128)
    fine_shape = (len(scanner.bins), ny * REFINEMENT, nx * REFINEMENT)
    for angle, points in enumerate(angle_responses(scanner, scanner.grid.refined(REFINEMENT))):
        response[:, angle, 0] = box_average(points.reshape(fine_shape), REFINEMENT).reshape(len(points), -1).T
    return response


def continuous_signals(scanner: FflScanner, images: NDArray[np.floating]) -> NDArray[np.complex128]:
    """Return the noise-free signals A_c x_c of finely resolved distributions (Eq. 34).

    Parameters
    ----------
    scanner : FflScanner
        Scanner and tracer.
    images : ndarray of float, shape (F, Ny * REFINEMENT, Nx * REFINEMENT)
        Concentration in multiples of the calibration sample's.

    Returns
    -------
    ndarray of complex128, shape (F, J, 1, K)
        Spectra in V.
    """
    fine = scanner.grid.refined(REFINEMENT)
    sources = fine.to_vector(images[:, None]).astype(np.float64) / REFINEMENT**2
    signals = np.empty((len(images), scanner.n_angles, 1, len(scanner.bins)), np.complex128)
    for angle, points in enumerate(angle_responses(scanner, fine)):
        signals[:, angle, 0] = sources @ points.T
    return signals


def receiver_frames(
    scanner: FflScanner,
    signals: NDArray[np.complex128],
    noise: ReceiverNoise,
    rng: np.random.Generator,
) -> NDArray[np.complex64]:
    """Add background and noise to the signals of one scan, in the order of acquisition.

    Parameters
    ----------
    scanner : FflScanner
        Scanner with its levels of noise and background.
    signals : ndarray of complex128, shape (N, J, 1, K)
        Noise-free spectra in V; zeros for background frames.
    noise : ReceiverNoise
        Kind of noise.
    rng : numpy.random.Generator
        Source of background and noise.

    Returns
    -------
    ndarray of complex64, shape (N, J, 1, K)
        Spectra in V as the receiver records them.

    Raises
    ------
    InputError
        If a value is beyond single precision.
    """
    shape = signals.shape

    def draw(size: tuple[int, ...]) -> NDArray[np.float64]:
        if np.isinf(noise.degrees_of_freedom):
            return np.asarray(rng.standard_normal(size))
        nu = noise.degrees_of_freedom
        return np.asarray(rng.standard_t(nu, size) * np.sqrt((nu - 2) / nu))

    background = scanner.background_voltage * (
        rng.standard_normal(shape[1:]) + 1j * rng.standard_normal(shape[1:])
    )
    drift = 1 + noise.drift * np.linspace(0, 1, shape[0])[:, None, None, None]
    random = draw(shape) + 1j * draw(shape)
    with np.errstate(over="ignore"):  # reported below
        frames = (signals + background * drift + row_noise_std(scanner, noise) * random).astype(np.complex64)
    if not np.all(np.isfinite(frames)):
        raise InputError(
            f"frames with noise colour {noise.colour:g} and drift {noise.drift:g} exceed single precision; "
            "expected finite voltages; choose smaller ones"
        )
    return frames


def mdf_acquisition(scanner: FflScanner) -> Acquisition:
    """Return the acquisition parameters of a scan: one MDF period per FFL angle."""
    cos, sin = np.cos(scanner.angles), np.sin(scanner.angles)
    normal = np.stack([cos, sin, np.zeros_like(cos)], axis=1)
    # Ideal FFL: the field grows along the normal and, div-free, falls along the axis out of the plane.
    gradient = scanner.gradient * np.einsum("ji,jk->jik", normal, normal)
    gradient[:, 2, 2] = -scanner.gradient
    drive = mdf_factory.new_sine_drive(
        scanner.drive_frequency, [1], [scanner.drive_amplitude], n_periods=scanner.n_angles
    )
    # One period holds the whole focus sweep, many cycles of the drive field.
    drive = replace(drive, cycle=scanner.period)
    return mdf_factory.new_acquisition(
        bandwidth=scanner.bandwidth,
        n_samples=scanner.n_samples,
        drivefield=drive,
        n_periods=scanner.n_angles,
        gradient=gradient[:, None],
    )


def _hardware() -> Scanner:
    return mdf_factory.new_scanner("reference FFL scanner (simulated)", topology="FFL")


def _tracer() -> Tracer:
    return mdf_factory.new_tracer("Perimag", concentration=0.152, volume=8e-6)


def simulate_calibration(scanner: FflScanner, seed: int = 0, noise: ReceiverNoise | None = None) -> MdfFile:
    """Measure the system matrix as the scanner would: with noise, background signal and background frames.

    Parameters
    ----------
    scanner : FflScanner
        Scanner and tracer; see `engine.mpi.simulation.scanner.PRESETS`.
    seed : int, optional
        Seed of background and noise.
    noise : ReceiverNoise, optional
        Kind of noise; white and Gaussian by default.

    Returns
    -------
    MdfFile
        Calibration with spectra at `scanner.bins` and `CALIBRATION_BACKGROUND_FRAMES` background frames.
    """
    noise = noise or ReceiverNoise()
    response = system_response(scanner)
    n_voxels = len(response)
    signals = np.concatenate([response, np.zeros((CALIBRATION_BACKGROUND_FRAMES, *response.shape[1:]))])
    frames = receiver_frames(scanner, signals, noise, np.random.default_rng([seed, 0]))
    return mdf_factory.new_calibration_file(
        frames[:n_voxels],
        frames[n_voxels:],
        grid=scanner.grid,
        acquisition=mdf_acquisition(scanner),
        bins=scanner.bins,
        scanner=_hardware(),
        tracer=_tracer(),
    )


@dataclass(frozen=True)
class SimulatedMeasurement:
    """A measurement with its ground truth.

    Attributes
    ----------
    file : MdfFile
        Background frames first, then one frame per image.
    truth : ndarray of float32, shape (F, Nz, Ny, Nx)
        Concentration in multiples of the calibration sample's.
    snr_db : ndarray of float64, shape (F,)
        Expected SNR of each frame by Eq. (36), over the rows above `SELECTION_SNR`.
    """

    file: MdfFile
    truth: NDArray[np.float32]
    snr_db: NDArray[np.float64]


def simulate_measurement(
    scanner: FflScanner,
    n_frames: int,
    snr_db: float,
    seed: int = 0,
    split: Split = "test",
    noise: ReceiverNoise | None = None,
) -> SimulatedMeasurement:
    """Measure vessel phantoms at a mean SNR.

    The scanner's noise is what it is; the tracer's concentration is chosen such that the mean over the
    frames of Eq. (36) is `snr_db`. Peaks vary between frames by U(0.5, 1.5) about that concentration.

    Parameters
    ----------
    scanner : FflScanner
        Scanner and tracer.
    n_frames : int
        Number of images, at least 1.
    snr_db : float
        Mean SNR in dB.
    seed : int, optional
        Seed of phantoms and noise.
    split : {"train", "validation", "test"}, optional
        Family of phantoms.
    noise : ReceiverNoise, optional
        Kind of noise.

    Returns
    -------
    SimulatedMeasurement

    Raises
    ------
    InputError
        If there are no frames, the SNR is beyond `SNR_LIMIT`, the scanner's noise drowns every row, or the
        frames overflow (`receiver_frames`).
    """
    _require_possible(n_frames, snr_db)
    rng = np.random.default_rng([seed, 1])
    fine, coarse = fine_vessel_images(split, n_frames, scanner.grid, seed, REFINEMENT)
    peaks = rng.uniform(0.5, 1.5, (n_frames, 1, 1)).astype(np.float32)
    return _measured(scanner, fine * peaks, peaks * coarse, snr_db, noise or ReceiverNoise(), rng)


def simulate_moving_measurement(
    scanner: FflScanner,
    n_frames: int,
    snr_db: float,
    seed: int = 0,
    split: Split = "test",
    noise: ReceiverNoise | None = None,
) -> SimulatedMeasurement:
    """Measure one vessel phantom that sways along x, as a scanner sees a scene from frame to frame.

    The frames make up one whole period of `SWAY_VOXELS` sin(t), so playing them over and over has no jump.

    Parameters
    ----------
    scanner, n_frames, snr_db, seed, split, noise
        As for `simulate_measurement`.

    Returns
    -------
    SimulatedMeasurement

    Raises
    ------
    InputError
        As `simulate_measurement`.
    """
    _require_possible(n_frames, snr_db)
    rng = np.random.default_rng([seed, 1])
    (still,), _ = fine_vessel_images(split, 1, scanner.grid, seed, REFINEMENT)
    places = SWAY_VOXELS * REFINEMENT * np.sin(2 * np.pi * np.arange(n_frames) / n_frames)
    fine = np.stack([shift(still, (0.0, place), order=1, mode="nearest") for place in places])
    coarse = box_average(fine, REFINEMENT)
    return _measured(scanner, fine, coarse, snr_db, noise or ReceiverNoise(), rng)


def _require_possible(n_frames: int, snr_db: float) -> None:
    if n_frames < 1:
        raise InputError(f"number of frames is {n_frames}; expected at least 1")
    if not abs(snr_db) <= SNR_LIMIT:
        raise InputError(f"SNR is {snr_db} dB; expected a finite number from -{SNR_LIMIT:g} to {SNR_LIMIT:g}")


def _measured(
    scanner: FflScanner,
    fine: NDArray[np.float32],
    coarse: NDArray[np.float32],
    snr_db: float,
    noise: ReceiverNoise,
    rng: np.random.Generator,
) -> SimulatedMeasurement:
    """Measure images at a mean SNR.

    `fine` are the images, float32 (F, Ny * REFINEMENT, Nx * REFINEMENT), `coarse` their box averages, float32
    (F, Ny, Nx).
    """
    signals = continuous_signals(scanner, fine)
    std = row_noise_std(scanner, noise)
    rows = row_snr(system_response(scanner), std) > SELECTION_SNR
    if not rows.any():
        raise InputError(
            f"no row of the system matrix reaches an SNR of {SELECTION_SNR:g} at a noise of "
            f"{scanner.noise_voltage:g} V per bin; give the scanner less noise"
        )
    power = np.mean(np.abs(signals[:, rows] / std[rows]) ** 2, axis=1) / 2
    frame_snr = 10 * np.log10(power)
    gain_db = snr_db - frame_snr.mean()
    concentration = 10 ** (gain_db / 20)
    background = np.zeros((MEASUREMENT_BACKGROUND_FRAMES, *signals.shape[1:]))
    frames = receiver_frames(scanner, np.concatenate([background, concentration * signals]), noise, rng)
    file = mdf_factory.new_measurement_file(
        frames,
        background_mask=np.arange(len(frames)) < len(background),
        acquisition=mdf_acquisition(scanner),
        bins=scanner.bins,
        scanner=_hardware(),
        tracer=_tracer(),
    )
    return SimulatedMeasurement(
        file, (concentration * coarse).astype(np.float32)[:, None], frame_snr + gain_db
    )


def preset_scanner(name: str) -> FflScanner:
    """Return a preset by name.

    Raises
    ------
    InputError
        If there is no such preset.
    """
    if name not in PRESETS:
        raise InputError(f"scanner preset is {name!r}; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
