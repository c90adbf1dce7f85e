"""Physics of the reference scanner: an open-sided field-free-line (FFL) system in two dimensions.

The field of an ideal FFL depends on s = r . n(phi) only, so one table of spectra over s serves every
angle and every voxel. Magnetisation follows the Langevin function, the received voltage is the time
derivative of the magnetic moment seen through particle relaxation, the receive chain and the coil's
sensitivity.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from engine.mpi.grid import Grid

BOLTZMANN = 1.380649e-23
"""Boltzmann's constant, J/K."""

MAGNETITE_SATURATION = 4.46e5
"""Saturation magnetisation of magnetite, A/m."""

OVERSAMPLING = 4
"""Evaluations of the magnetisation for each sample of the receiver, against aliasing."""

TABLE_SPACING = 1e-4
"""Spacing of the table over s in metres: a sixteenth of the narrowest structure (11th harmonic)."""


@dataclass(frozen=True)
class FflScanner:
    """The reference scanner and its tracer.

    Attributes
    ----------
    gradient : float
        Selection-field gradient G in T/m.
    grid : Grid
        Calibration grid.
    n_angles : int
        FFL angles, equally spaced over 180 degrees; one MDF period each.
    period : float
        Measurement time per angle in s; frequency bins are 1 / period apart.
    drive_frequency : float
        Frequency of the drive field in Hz.
    drive_amplitude : float
        Amplitude of the drive field in T.
    focus_amplitude : float
        Amplitude of the slow translation of the FFL in metres, one cosine period per angle.
    bandwidth : float
        Receiver bandwidth in Hz (half the sampling rate).
    harmonics : tuple of int
        First and last harmonic stored.
    bins_per_harmonic : int
        Bins stored around each harmonic, odd.
    core_diameter : float
        Effective magnetic core diameter in m.
    relaxation_time : float
        Debye relaxation time in s.
    temperature : float
        Temperature of the tracer in K.
    sample_moment : float
        Saturation moment of the calibration sample in A m^2 (8 uL of undiluted tracer).
    coil_sensitivity : float
        Field per current of the receive coil at the centre in T/A.
    sensitivity_drop : float
        Relative loss of sensitivity in the corners of the field of view.
    high_pass, low_pass : float
        Corner frequencies of the preamplifier in Hz.
    noise_voltage : float
        Standard deviation per real component of one spectral bin (unnormalised DFT) in V.
    background_voltage : float
        Standard deviation over bins of the constant background signal (feedthrough) in V.
    """

    gradient: float = 0.5
    grid: Grid = Grid((26, 13, 1), (0.052, 0.026, 0.002))  # noqa: RUF009 - Grid is frozen
    n_angles: int = 60
    period: float = 0.01
    drive_frequency: float = 26e3
    drive_amplitude: float = 9e-3
    focus_amplitude: float = 0.0122
    bandwidth: float = 5e5
    harmonics: tuple[int, int] = (2, 11)
    bins_per_harmonic: int = 13
    core_diameter: float = 50e-9
    relaxation_time: float = 0.5e-6
    temperature: float = 295.0
    sample_moment: float = 6e-6
    coil_sensitivity: float = 1e-3
    sensitivity_drop: float = 0.35
    high_pass: float = 10e3
    low_pass: float = 300e3
    noise_voltage: float = 0.0745
    background_voltage: float = 0.5

    @property
    def n_samples(self) -> int:
        """Samples V per period."""
        return round(2 * self.bandwidth * self.period)

    @property
    def angles(self) -> NDArray[np.float64]:
        """FFL angles phi in radians, float64 (n_angles,)."""
        return np.arange(self.n_angles) * np.pi / self.n_angles

    @property
    def bins(self) -> NDArray[np.int64]:
        """Stored frequency bins, int64 (K,), 0-based on the full rfft axis, increasing."""
        first, last = self.harmonics
        centres = np.arange(first, last + 1) * round(self.drive_frequency * self.period)
        half = self.bins_per_harmonic // 2
        return (centres[:, None] + np.arange(-half, half + 1)).ravel().astype(np.int64)

    @property
    def frequencies(self) -> NDArray[np.float64]:
        """Frequencies of the stored bins in Hz, float64 (K,)."""
        return self.bins / self.period


PRESETS = {
    "reference-0.5": FflScanner(gradient=0.5),
    "reference-0.6": FflScanner(gradient=0.6),
}
"""The two scans of the paper; they differ in the selection-field gradient."""


def langevin(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Evaluate the Langevin function L(x) = coth(x) - 1/x, stable at zero: float64 in the shape of x."""
    small = np.abs(x) < 1e-2
    safe = np.where(small, 1.0, x)
    return np.where(small, x / 3 - x**3 / 45, 1 / np.tanh(safe) - 1 / safe)


def receive_chain(scanner: FflScanner, frequencies: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Relaxation and preamplifier: the factor, complex128 (K,), between ideal and recorded spectra."""
    debye = 1 / (1 + 2j * np.pi * frequencies * scanner.relaxation_time)
    high = 1j * frequencies / (scanner.high_pass + 1j * frequencies)
    low = scanner.low_pass / (scanner.low_pass + 1j * frequencies)
    return debye * high * low


def line_spectra(scanner: FflScanner, s: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Spectra of a unit sample at distance s from the FFL's centre position.

    Parameters
    ----------
    scanner : FflScanner
        Scanner and tracer.
    s : ndarray of float64, shape (n,)
        Positions along the FFL's normal in metres.

    Returns
    -------
    ndarray of complex128, shape (n, K)
        Unnormalised DFT of the received voltage over one period, at `scanner.bins`, in V for a
        calibration sample at the coil's most sensitive place.
    """
    volume = np.pi / 6 * scanner.core_diameter**3
    beta = MAGNETITE_SATURATION * volume / (BOLTZMANN * scanner.temperature)  # m / kT in 1/T
    n_fine = OVERSAMPLING * scanner.n_samples
    time = np.arange(n_fine) * scanner.period / n_fine
    drive = scanner.drive_amplitude * np.cos(2 * np.pi * scanner.drive_frequency * time)
    shift = scanner.gradient * scanner.focus_amplitude * np.cos(2 * np.pi * time / scanner.period)
    response = (
        scanner.coil_sensitivity
        * scanner.sample_moment
        * 2j
        * np.pi
        * scanner.frequencies
        * receive_chain(scanner, scanner.frequencies)
        / OVERSAMPLING  # a DFT over more samples is larger by their ratio
    )
    spectra = np.empty((len(s), len(scanner.bins)), np.complex128)
    for part in np.array_split(np.arange(len(s)), max(1, len(s) // 64)):
        field = scanner.gradient * s[part, None] - drive - shift
        spectra[part] = np.fft.rfft(langevin(beta * field), axis=1)[:, scanner.bins] * response
    return spectra


def coil_profile(scanner: FflScanner, positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Receive sensitivity at positions (n, 3) in m, relative to the centre: float64 (n,), less outwards."""
    corner = np.hypot(scanner.grid.field_of_view[0], scanner.grid.field_of_view[1]) / 2
    radius = np.hypot(positions[:, 0], positions[:, 1]) / corner
    return np.asarray(1 - scanner.sensitivity_drop * radius**2)


def angle_responses(scanner: FflScanner, grid: Grid) -> Iterator[NDArray[np.complex128]]:
    """Yield the system function of each FFL angle on a grid.

    Parameters
    ----------
    scanner : FflScanner
        Scanner and tracer.
    grid : Grid
        Grid with point sources at its voxel centres.

    Yields
    ------
    ndarray of complex128, shape (K, grid.n_voxels)
        Spectra in V per unit concentration of a calibration-sized sample concentrated at each point.
    """
    positions = grid.positions()
    reach = np.hypot(positions[:, 0], positions[:, 1]).max() + 2 * TABLE_SPACING
    table_s = np.arange(-reach, reach + TABLE_SPACING, TABLE_SPACING)
    table = CubicSpline(table_s, line_spectra(scanner, table_s))
    profile = coil_profile(scanner, positions)
    for phi in scanner.angles:
        s = positions[:, 0] * np.cos(phi) + positions[:, 1] * np.sin(phi)
        yield (table(s) * profile[:, None]).T
