"""Scans whose measurements and system matrix do not belong to the scanner that the networks were trained on.

Every one is a `Scan`: the matrix that makes the data, and the operators that reconstruct them. Where the two
belong to different scanners, both have the rows and the whitening of the calibration in use, so that data of
the one are data for the other. Calibrations that are compared draw the same noise: they differ by physics.
"""

from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.scans.scans import TRAIN_GRADIENT, reference_scan
from engine.calibration.calibrate import CalibrationConfig, make_operators, system_matrix_from_mdf
from engine.mpi.simulation.scan import preset_scanner, simulate_calibration, system_response
from engine.mpi.simulation.scanner import FflScanner
from engine.mpi.system_matrix import SystemMatrix
from engine.tuning.emulation import Scan, scan_of

EVERY_ROW = CalibrationConfig(snr_threshold=0.0)
"""Keeps all rows of the band: noise alone gives each an SNR of about 1."""


@dataclass(frozen=True)
class TurnedScanner(FflScanner):
    """The reference scanner with all FFL angles off by the same amount.

    Attributes
    ----------
    turn : float
        Added to every angle, radians.
    """

    turn: float = 0.0

    @property
    def angles(self) -> NDArray[np.float64]:
        """FFL angles phi in radians, shape (n_angles,)."""
        return super().angles + self.turn


def reference_scanner() -> FflScanner:
    """Return the scanner and tracer that the networks were trained on."""
    return preset_scanner(f"reference-{TRAIN_GRADIENT}")


def with_core_diameter(factor: float) -> FflScanner:
    """Return the reference scanner with a tracer of other cores and the same magnetic moment per volume."""
    scanner = reference_scanner()
    return replace(scanner, core_diameter=factor * scanner.core_diameter)


def with_turn(degrees: float) -> FflScanner:
    """Return the reference scanner with its FFL turned by an angle in degrees."""
    scanner = reference_scanner()
    settings = {field.name: getattr(scanner, field.name) for field in fields(FflScanner)}
    return TurnedScanner(**settings, turn=float(np.deg2rad(degrees)))


@cache
def recalibrated(scanner: FflScanner) -> Scan:
    """Calibrate a scanner and measure with it: rows, whitening and operators are its own."""
    return scan_of(system_matrix_from_mdf(simulate_calibration(scanner)))


@cache
def not_recalibrated(scanner: FflScanner) -> Scan:
    """Measure with a scanner, reconstruct with the operators of the reference scanner.

    Parameters
    ----------
    scanner : FflScanner
        With the angles and frequency bins of the reference scanner.

    Returns
    -------
    Scan
        `measured` has the rows and the whitening of the reference calibration.
    """
    reference = reference_scan(TRAIN_GRADIENT)
    every = system_matrix_from_mdf(simulate_calibration(scanner), EVERY_ROW)
    return Scan(rows_of(every, reference.measured), reference.operators)


@cache
def with_calibration_noise(factor: float) -> Scan:
    """Measure with the reference scanner without calibration noise, reconstruct with `factor` times it.

    Emulated data normally come from the measured matrix, noise included, so that its noise counts as the
    scanner's response. Here the data come from the response itself, and only the operators see the noise.
    """
    reference = reference_scan(TRAIN_GRADIENT)
    clean = _noise_free(reference.measured)
    noisy = replace(clean, rows=clean.rows + factor * (reference.measured.rows - clean.rows))
    return Scan(clean, make_operators(noisy.smoothed()))


def rows_of(matrix: SystemMatrix, other: SystemMatrix) -> SystemMatrix:
    """Return the rows of one matrix that another one has, in units of the other's noise.

    Parameters
    ----------
    matrix : SystemMatrix
        With at least the rows of `other`, of the same dense layout and grid.
    other : SystemMatrix
        Gives rows and whitening.

    Returns
    -------
    SystemMatrix
    """
    places = np.searchsorted(matrix.layout.index, other.layout.index)
    raw = matrix.rows[places] * matrix.noise_std[places, None]
    return replace(other, rows=raw / other.noise_std[:, None])


def _noise_free(measured: SystemMatrix) -> SystemMatrix:
    response = system_response(reference_scanner())
    rows = response.reshape(len(response), -1)[:, measured.layout.index].T
    return replace(measured, rows=np.ascontiguousarray(rows / measured.noise_std[:, None]))
