"""The scanner's physics against closed forms and direct integration."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from engine.mpi.grid import Grid
from engine.mpi.simulation.scanner import (
    BOLTZMANN,
    MAGNETITE_SATURATION,
    PRESETS,
    FflScanner,
    angle_responses,
    coil_profile,
    langevin,
    line_spectra,
    receive_chain,
)

SCANNER = PRESETS["reference-0.5"]

ROUNDING = 1e-9
"""Relative; sums of 20,000 float64 terms."""

ALIASING = 2e-4
"""Relative to the strongest bin: harmonics beyond 2 MHz that fold back at the 4 MS/s of the table."""

INTERPOLATION = 2e-3
"""Relative to the strongest bin: cubic splines over 0.1 mm, where structures are 1.6 mm wide."""


def test_langevin_matches_its_definition_and_its_limits() -> None:
    x = np.array([-30.0, -1.0, -0.02, 0.02, 1.0, 30.0])
    assert_allclose(langevin(x), 1 / np.tanh(x) - 1 / x, rtol=1e-10)
    tiny = np.array([-1e-3, 0.0, 1e-9, 1e-3])
    assert_allclose(langevin(tiny), tiny / 3, rtol=1e-6)
    assert abs(langevin(np.array([1e4]))[0] - (1 - 1e-4)) < 1e-12


def test_langevin_is_smooth_where_the_series_takes_over() -> None:
    x = np.array([0.00999999, 0.01000001])
    slope = np.diff(langevin(x)) / np.diff(x)
    assert_allclose(slope, 1 / 3, rtol=1e-3)


def test_bins_are_thirteen_around_each_harmonic() -> None:
    bins = SCANNER.bins.reshape(10, 13)
    assert SCANNER.n_samples == 10_000
    assert_allclose(bins[:, 6] / SCANNER.period, 26e3 * np.arange(2, 12))
    assert np.array_equal(bins - bins[:, 6:7], np.tile(np.arange(-6, 7), (10, 1)))


def test_spectra_are_the_fourier_integral_of_the_induced_voltage() -> None:
    """Oracle: dM/dt by the chain rule in the time domain, then a direct sum, not an FFT."""
    scanner = replace(SCANNER, relaxation_time=0.0)
    s = 4.3e-3
    n = 80_000
    t = np.arange(n) * scanner.period / n
    beta = MAGNETITE_SATURATION * np.pi / 6 * scanner.core_diameter**3 / (BOLTZMANN * scanner.temperature)
    omega, slow = 2 * np.pi * scanner.drive_frequency, 2 * np.pi / scanner.period
    shift = scanner.gradient * scanner.focus_amplitude
    field = scanner.gradient * s - scanner.drive_amplitude * np.cos(omega * t) - shift * np.cos(slow * t)
    rate = scanner.drive_amplitude * omega * np.sin(omega * t) + shift * slow * np.sin(slow * t)
    x = beta * field
    derivative = 1 / x**2 - 1 / np.sinh(np.clip(x, -300, 300)) ** 2
    voltage = scanner.coil_sensitivity * scanner.sample_moment * beta * derivative * rate
    kernel = np.exp(-2j * np.pi * np.outer(scanner.frequencies, t))
    expected = kernel @ voltage * scanner.n_samples / n * receive_chain(scanner, scanner.frequencies)
    got = line_spectra(scanner, np.array([s]))[0]
    assert got.shape == (130,)
    assert_allclose(got, expected, atol=ALIASING * np.abs(expected).max())


def test_a_still_line_at_the_centre_has_odd_harmonics_only() -> None:
    scanner = replace(SCANNER, focus_amplitude=0.0)
    spectrum = np.abs(line_spectra(scanner, np.array([0.0]))[0]).reshape(10, 13)
    peak = spectrum.max()
    even, odd = spectrum[0::2, 6], spectrum[1::2, 6]
    assert even.max() < ROUNDING * peak
    assert odd.min() > 1e-3 * peak
    assert np.delete(spectrum, 6, axis=1).max() < ROUNDING * peak, "no sidebands without a focus sweep"


def test_mirrored_positions_give_mirrored_harmonics() -> None:
    """B(-s, t + T/2 of both fields) = -B(s, t): odd harmonics keep, even harmonics change their sign."""
    scanner = replace(SCANNER, focus_amplitude=0.0)
    left, right = line_spectra(scanner, np.array([-3e-3, 3e-3])).reshape(2, 10, 13)[:, :, 6]
    assert_allclose(left[1::2], right[1::2], rtol=1e-6)
    assert_allclose(left[0::2], -right[0::2], rtol=1e-6)


def test_receive_chain_has_half_power_at_its_corners() -> None:
    alone = replace(SCANNER, relaxation_time=0.0, high_pass=1e-6)
    assert_allclose(np.abs(receive_chain(alone, np.array([alone.low_pass]))) ** 2, 0.5, rtol=1e-9)
    alone = replace(SCANNER, relaxation_time=0.0, low_pass=1e12)
    assert_allclose(np.abs(receive_chain(alone, np.array([alone.high_pass]))) ** 2, 0.5, rtol=1e-6)


def test_sensitivity_is_one_at_the_centre_and_drops_to_the_corner() -> None:
    corner = np.array([[0.0, 0.0, 0.0], [0.026, 0.013, 0.0]])
    assert_allclose(coil_profile(SCANNER, corner), [1.0, 1 - SCANNER.sensitivity_drop])


def test_response_depends_on_the_projection_on_the_normal() -> None:
    scanner = replace(SCANNER, n_angles=3, sensitivity_drop=0.0)
    grid = Grid((5, 3, 1), (0.05, 0.018, 0.002))
    positions = grid.positions()
    for phi, response in zip(scanner.angles, angle_responses(scanner, grid), strict=True):
        s = positions @ [np.cos(phi), np.sin(phi), 0.0]
        expected = line_spectra(scanner, s).T
        assert response.shape == (130, 15)
        assert_allclose(response, expected, atol=INTERPOLATION * np.abs(expected).max())


def test_presets_differ_in_the_gradient_only() -> None:
    assert replace(PRESETS["reference-0.6"], gradient=0.5) == PRESETS["reference-0.5"] == FflScanner()


@pytest.mark.parametrize("gradient", [0.5, 0.6])
def test_a_steeper_gradient_narrows_the_line(gradient: float) -> None:
    """Full width of the magnetisation's response: 4.16 / (beta G), the field-free line's resolution."""
    scanner = replace(
        SCANNER, gradient=gradient, drive_amplitude=1e-5, focus_amplitude=0.0, relaxation_time=0.0
    )
    scanner = replace(scanner, harmonics=(1, 1), bins_per_harmonic=1)
    beta = MAGNETITE_SATURATION * np.pi / 6 * scanner.core_diameter**3 / (BOLTZMANN * scanner.temperature)
    s = np.linspace(-3e-3, 3e-3, 401)
    profile = np.abs(line_spectra(scanner, s)[:, 0])
    width = np.ptp(s[profile > profile.max() / 2])
    assert_allclose(width, 4.16 / (beta * gradient), atol=2 * (s[1] - s[0]))
