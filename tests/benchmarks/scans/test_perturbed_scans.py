"""Perturbed scans hold what the changed scanner would measure, by a simulation in the time domain."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from benchmarks.scans import perturbed_scans
from benchmarks.scans.perturbations import GROUPS
from benchmarks.scans.perturbed_scans import (
    not_recalibrated,
    recalibrated,
    reference_scanner,
    with_calibration_noise,
    with_core_diameter,
    with_turn,
)
from engine.calibration.calibrate import system_matrix_from_mdf
from engine.mpi.grid import Grid
from engine.mpi.simulation.scan import simulate_calibration
from engine.mpi.simulation.scanner import PRESETS, FflScanner
from engine.tuning.emulation import Scan, scan_of

pytestmark = pytest.mark.usefixtures("quiet_world")

QUIET = 1e-4
"""V; noise a fiftieth of the small scanner's, so that small changes of the physics stand out."""

NOISE = 6.0
"""Largest deviation of whitened rows from the noise-free ones: six standard deviations."""

FAR = 100.0
"""Whitened distance of two matrices that differ by physics, far above their noise."""

SAME_NOISE = 1e-4
"""Relative: two calibrations draw the same noise but round their frames to single precision."""

SPREAD = 0.02
"""Relative error of a standard deviation over 80 voxels and some hundred rows, whitened to 5 % per row."""

SINGLE = 1e-5
"""Relative rounding of operators stored in single precision."""

OVERSAMPLING = 16
SUBPOINTS = 4
VOXEL = 17


def quiet_scanner(preset: str) -> FflScanner:
    return replace(
        PRESETS[preset],
        grid=Grid((10, 8, 1), (0.04, 0.032, 0.002)),
        n_angles=8,
        harmonics=(2, 5),
        bandwidth=1.5e5,
        noise_voltage=QUIET,
    )


@cache
def quiet_scan(gradient: float) -> Scan:
    return scan_of(system_matrix_from_mdf(simulate_calibration(quiet_scanner(f"reference-{gradient}"))))


@pytest.fixture(scope="module")
def quiet_world() -> Iterator[None]:
    """A small scanner of little noise in place of the reference scanner; scans are made once."""
    cached = (
        perturbed_scans.recalibrated,
        perturbed_scans.not_recalibrated,
        perturbed_scans.with_calibration_noise,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perturbed_scans, "preset_scanner", quiet_scanner)
        patch.setattr(perturbed_scans, "reference_scan", quiet_scan)
        for function in cached:
            function.cache_clear()
        yield
    for function in cached:
        function.cache_clear()


def spectrum(scanner: FflScanner, diameter: float, x: float, y: float, phi: float) -> NDArray[np.complex128]:
    """DFT of the voltage of a point sample: the derivative of Langevin's function, summed over time."""
    n = OVERSAMPLING * scanner.n_samples
    t = np.arange(n) / n * scanner.period
    w, slow = 2 * np.pi * scanner.drive_frequency, 2 * np.pi / scanner.period
    reach = scanner.gradient * scanner.focus_amplitude
    field = scanner.gradient * (x * np.cos(phi) + y * np.sin(phi))
    field = field - scanner.drive_amplitude * np.cos(w * t) - reach * np.cos(slow * t)
    change = scanner.drive_amplitude * w * np.sin(w * t) + reach * slow * np.sin(slow * t)
    beta = 4.46e5 * np.pi / 6 * diameter**3 / (1.380649e-23 * scanner.temperature)
    a = beta * field
    near = np.abs(a) < 0.1
    wide = np.clip(np.where(near, 1.0, a), -300, 300)
    slope = np.where(near, 1 / 3 - a**2 / 15, 1 / np.where(near, 1.0, a) ** 2 - 1 / np.sinh(wide) ** 2)
    voltage = scanner.coil_sensitivity * scanner.sample_moment * beta * slope * change
    f = scanner.bins / scanner.period
    transform = np.fft.rfft(voltage)[scanner.bins]
    chain = 1j * f / (scanner.high_pass + 1j * f) / (1 + 1j * f / scanner.low_pass)
    chain /= 1 + 2j * np.pi * f * scanner.relaxation_time
    corner = np.hypot(*scanner.grid.field_of_view[:2]) / 2
    sensitivity = 1 - scanner.sensitivity_drop * (np.hypot(x, y) / corner) ** 2
    return np.asarray(transform * chain * sensitivity / OVERSAMPLING)


def voxel_rows(scan: Scan, angle: int, diameter: float, turned: float = 0.0) -> NDArray[np.complex128]:
    """Whitened rows of one voxel and one angle; the scanner stays, the voxel turns by -`turned` radians."""
    scanner = reference_scanner()
    centre = scanner.grid.positions()[VOXEL]
    inner = (np.arange(SUBPOINTS) + 0.5) / SUBPOINTS - 0.5
    phi = angle * np.pi / scanner.n_angles
    total = np.zeros(len(scanner.bins), np.complex128)
    for dx in inner * scanner.grid.pitch[0]:
        for dy in inner * scanner.grid.pitch[1]:
            x, y = centre[0] + dx, centre[1] + dy
            along = np.cos(turned) * x + np.sin(turned) * y
            across = np.cos(turned) * y - np.sin(turned) * x
            total += spectrum(scanner, diameter, along, across, phi)
    chosen = rows_of_angle(scan, angle)
    columns = scan.measured.layout.index[chosen] % len(scanner.bins)
    return np.asarray((total / SUBPOINTS**2)[columns] / scan.measured.noise_std[chosen])


def rows_of_angle(scan: Scan, angle: int) -> NDArray[np.bool_]:
    return np.asarray(scan.measured.layout.index // scan.measured.layout.shape[1] == angle)


def assert_measured(scan: Scan, angle: int, diameter: float, turned: float = 0.0) -> None:
    found = scan.measured.rows[rows_of_angle(scan, angle), VOXEL]
    wanted = voxel_rows(scan, angle, diameter, turned)
    assert found.shape == wanted.shape
    assert found.size > 0
    assert_allclose(found.real, wanted.real, rtol=0, atol=NOISE)
    assert_allclose(found.imag, wanted.imag, rtol=0, atol=NOISE)


@pytest.mark.parametrize("factor", [1.1, 0.9])
@pytest.mark.parametrize("make", [not_recalibrated, recalibrated])
def test_another_core_diameter_gives_the_rows_of_its_langevin_curve(make: object, factor: float) -> None:
    scan = make(with_core_diameter(factor))  # type: ignore[operator]
    assert_measured(scan, 3, factor * 50e-9)


def test_a_turned_scanner_sees_phantoms_turned_the_other_way() -> None:
    scan = not_recalibrated(with_turn(1.0))
    assert_measured(scan, 0, 50e-9, turned=np.pi / 180)
    assert_measured(scan, 5, 50e-9, turned=np.pi / 180)


def test_a_turn_by_one_step_is_the_next_angle() -> None:
    step = 180 / reference_scanner().n_angles
    angles = with_turn(step).angles
    assert_allclose(angles[:-1], reference_scanner().angles[1:], atol=1e-12)
    assert angles[-1] == pytest.approx(np.pi)


@pytest.mark.parametrize("scanner", ["cores", "turn"])
def test_without_calibration_rows_whitening_and_operators_are_the_old_ones(scanner: str) -> None:
    reference = quiet_scan(0.5)
    changed = with_core_diameter(1.1) if scanner == "cores" else with_turn(1.0)
    scan = not_recalibrated(changed)
    assert scan.operators is reference.operators
    assert scan.measured.layout is reference.measured.layout
    assert scan.measured.noise_std is reference.measured.noise_std
    assert np.abs(scan.measured.rows - reference.measured.rows).max() > FAR


def test_an_unchanged_scanner_gives_the_calibration_again() -> None:
    scan = not_recalibrated(reference_scanner())
    assert_allclose(scan.measured.rows, quiet_scan(0.5).measured.rows, rtol=SAME_NOISE)


def test_calibration_again_has_operators_of_the_new_tracer() -> None:
    thick, thin = (recalibrated(with_core_diameter(factor)) for factor in (1.1, 0.9))
    assert thick.operators.scale > thin.operators.scale  # steeper magnetisation, stronger harmonics


def test_the_noise_of_the_calibration_is_the_whitened_one_and_doubles() -> None:
    measured = quiet_scan(0.5).measured
    once, twice, none = (with_calibration_noise(factor) for factor in (1.0, 2.0, 0.0))
    noise = measured.rows - once.measured.rows
    assert noise.real.std() == pytest.approx(1.0, rel=SPREAD)
    assert noise.imag.std() == pytest.approx(1.0, rel=SPREAD)
    matrices = [scan.operators.system_matrix * scan.operators.scale for scan in (none, once, twice)]
    reference = quiet_scan(0.5).operators
    assert_allclose(
        matrices[1], reference.system_matrix * reference.scale, atol=SINGLE * np.abs(matrices[1]).max()
    )
    assert_allclose(
        matrices[2] - matrices[0],
        2 * (matrices[1] - matrices[0]),
        rtol=0,
        atol=SINGLE * np.abs(matrices[1]).max(),
    )


def test_every_perturbation_has_its_own_name() -> None:
    names = [perturbation.name for group in GROUPS for perturbation in group.perturbations]
    assert len(set(names)) == len(names) > 0
