"""Small calibrated systems on which the engine's tests agree."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from engine.calibration.calibrate import CalibrationConfig, calibrate
from engine.mpi.grid import Grid
from engine.mpi.mdf.new_files import (
    new_acquisition,
    new_calibration_file,
    new_measurement_file,
    new_sine_drive,
)
from engine.mpi.row_layout import Acquisition, RowLayout
from engine.mpi.system_matrix import SystemMatrix

CONFIG = CalibrationConfig(harmonics=(2, 3), harmonic_half_width=200.0)
"""Rows of `scan`: 30 bins around its strongest harmonics."""


def random_system_matrix(grid, n_rows, shape, seed):
    """Smooth random rows at random places of a dense layout of the given shape."""
    rng = np.random.default_rng(seed)
    index = np.sort(rng.choice(shape[0] * shape[1], n_rows, replace=False)).astype(np.int64)
    waves = rng.uniform(-3, 3, (n_rows, 3)) / np.array(grid.field_of_view)
    rows = 40 * np.exp(1j * (waves @ grid.positions().T) + 1j * rng.uniform(0, 6, (n_rows, 1)))
    rows += 0.1 * (rng.standard_normal(rows.shape) + 1j * rng.standard_normal(rows.shape))
    acquisition = Acquisition(
        bandwidth=500e3,
        n_samples=1000,
        n_periods=shape[0],
        n_channels=1,
        channels=np.array([0], np.int64),
        bins=np.arange(50, 50 + shape[1], dtype=np.int64),
    )
    return SystemMatrix(
        rows.astype(np.complex128),
        grid,
        RowLayout(shape, index),
        acquisition,
        rng.uniform(1e-6, 2e-6, n_rows),
    )


@pytest.fixture(scope="session")
def make_system_matrix():
    """Build a random system matrix: make_system_matrix(grid, n_rows, dense_shape, seed)."""
    return random_system_matrix


@pytest.fixture(scope="session")
def small_system_matrix():
    """60 complex rows in a (6, 12) layout on a 7 x 5 grid."""
    return random_system_matrix(Grid((7, 5, 1), (0.014, 0.010, 0.002)), 60, (6, 12), 1)


@dataclass(frozen=True)
class Scan:
    """A made-up scanner whose every number is known: 3 periods, 2 channels, 101 bins 100 Hz apart.

    The drive field has 1 kHz (bin 10), signals live around its harmonics, strongest at the second.

    Attributes
    ----------
    signal : ndarray of complex128, shape (20, 3, 2, 101)
        Spectra per unit concentration of each voxel of a 5 x 4 grid.
    background : ndarray of complex128, shape (3, 2, 101)
        What is received without a sample; larger than most signals.
    noise : ndarray of float64, shape (3, 2, 101)
        Standard deviation per real component.
    """

    grid: Grid
    signal: np.ndarray
    background: np.ndarray
    noise: np.ndarray

    def acquisition(self, divider=(10,), **changes):
        drive = new_sine_drive(10e3, divider, 0.01, n_periods=3)
        settings = {"bandwidth": 10e3, "n_samples": 200, "n_periods": 3, "n_channels": 2}
        return new_acquisition(**(settings | changes), drivefield=drive)

    def frames(self, concentrations, rng):
        """Noisy spectra (F, 3, 2, 101) of voxel vectors (F, 20), background included."""
        clean = np.tensordot(concentrations, self.signal, axes=1) + self.background
        random = rng.standard_normal((2, *clean.shape)) * self.noise
        return clean + random[0] + 1j * random[1]

    def calibration(self, *, n_background=12, bins=None, snr=None, divider=(10,), seed=5):
        """Calibration file with one frame per voxel; `bins` are the ones stored."""
        rng = np.random.default_rng(seed)
        foreground = self.frames(np.eye(20), rng)
        background = self.frames(np.zeros((n_background, 20)), rng)
        kept = np.arange(101) if bins is None else np.asarray(bins)
        return new_calibration_file(
            foreground[..., kept],
            background[..., kept],
            grid=self.grid,
            acquisition=self.acquisition(divider),
            bins=None if bins is None else kept,
            snr=snr,
        )

    def measurement(self, spectra, mask=None, *, bins=None, **changes):
        """Measurement file of spectra (N, 3, 2, 101); `bins` are the ones stored."""
        kept = np.arange(101) if bins is None else np.asarray(bins)
        file = new_measurement_file(
            spectra[..., kept],
            acquisition=self.acquisition(),
            background_mask=mask,
            bins=None if bins is None else kept,
        )
        return replace(file, measurement=replace(file.measurement, **changes))


@pytest.fixture(scope="session")
def scan():
    rng = np.random.default_rng(8)
    grid = Grid((5, 4, 1), (0.010, 0.008, 0.002))
    bin_number = np.arange(101)
    harmonic = np.rint(bin_number / 10)
    strength = 50 * np.exp(-0.8 * harmonic - 1.2 * np.abs(bin_number - 10 * harmonic))
    phase = rng.uniform(0, 2 * np.pi, (3, 2, 101))
    waves = rng.uniform(-400, 400, (3, 2, 101, 2))
    angle = phase + np.einsum("jckd,nd->njck", waves, grid.positions()[:, :2])
    complex_background = rng.standard_normal((2, 3, 2, 101))
    return Scan(
        grid=grid,
        signal=strength * np.exp(1j * angle),
        background=5 * (complex_background[0] + 1j * complex_background[1]),
        noise=rng.uniform(0.05, 0.15, (3, 2, 101)),
    )


@pytest.fixture(scope="session")
def operators(scan):
    """30 bins of two channels and three periods, on a 5 x 4 grid."""
    return calibrate(scan.calibration(), CONFIG)


@pytest.fixture(scope="session")
def image():
    """A voxel vector (20,)."""
    return np.random.default_rng(4).uniform(0.5, 2, 20)
