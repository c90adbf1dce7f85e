"""Simulated scans: consistency of the two grids, noise statistics, SNR and file content."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from engine.errors import InputError
from engine.mpi.grid import Grid
from engine.mpi.mdf.grids import calibration_grid
from engine.mpi.mdf.spectra import background_mask, bins, spectra
from engine.mpi.metrics import snr_db
from engine.mpi.preprocess import stack_real
from engine.mpi.simulation.scan import (
    CALIBRATION_BACKGROUND_FRAMES,
    MEASUREMENT_BACKGROUND_FRAMES,
    REFINEMENT,
    SELECTION_SNR,
    ReceiverNoise,
    continuous_signals,
    mdf_acquisition,
    preset_scanner,
    receiver_frames,
    row_noise_std,
    simulate_calibration,
    simulate_measurement,
    system_response,
)
from engine.mpi.simulation.scanner import PRESETS, FflScanner

ROUNDING = 1e-10
SINGLE = 1e-6
"""Relative rounding of complex64 storage, with a margin."""

FIVE_SIGMA = 5.0
"""Statistical bounds are five standard errors wide: one failure in two million draws."""


@pytest.fixture(scope="module")
def scanner() -> FflScanner:
    return replace(
        PRESETS["reference-0.5"],
        grid=Grid((6, 4, 1), (0.03, 0.02, 0.002)),
        n_angles=4,
        harmonics=(2, 5),
        bandwidth=1.5e5,
    )


def test_a_full_voxel_gives_its_column_of_the_system_matrix(scanner: FflScanner) -> None:
    coarse = np.zeros((2, 4, 6))
    coarse[0, 1, 2] = 1.0
    coarse[1] = 0.3
    fine = coarse.repeat(REFINEMENT, axis=1).repeat(REFINEMENT, axis=2)
    signals = continuous_signals(scanner, fine)
    response = system_response(scanner)
    assert response.shape == (24, 4, 1, 52)
    assert_allclose(signals[0], response[1 * 6 + 2], rtol=0, atol=ROUNDING * np.abs(response).max())
    assert_allclose(signals[1], 0.3 * response.sum(0), rtol=0, atol=ROUNDING * np.abs(response).max() * 24)


def test_noise_has_the_stated_level_and_background_is_the_same_in_all_frames(scanner: FflScanner) -> None:
    signals = np.zeros((400, 4, 1, 52), np.complex128)
    frames = receiver_frames(scanner, signals, ReceiverNoise(), np.random.default_rng(1))
    noise = frames - frames.mean(axis=0)
    variance = (noise.real**2 + noise.imag**2).mean() / 2 * 400 / 399
    relative_error = np.sqrt(2 / (2 * noise.size))
    assert abs(variance / scanner.noise_voltage**2 - 1) < FIVE_SIGMA * relative_error
    background = frames.mean(axis=0)
    assert 0.5 < background.std() / (np.sqrt(2) * scanner.background_voltage) < 1.5


def test_coloured_noise_falls_with_frequency(scanner: FflScanner) -> None:
    std = row_noise_std(scanner, ReceiverNoise(colour=1.0))
    assert_allclose(std * scanner.frequencies, (std * scanner.frequencies)[0, 0, 0])
    assert_allclose(row_noise_std(scanner, ReceiverNoise()), scanner.noise_voltage)


def test_heavy_tails_keep_the_variance(scanner: FflScanner) -> None:
    signals = np.zeros((400, 4, 1, 52), np.complex128)
    frames = receiver_frames(
        scanner, signals, ReceiverNoise(degrees_of_freedom=6.0), np.random.default_rng(1)
    )
    noise = (frames - frames.mean(axis=0)).view(np.float32).ravel() / scanner.noise_voltage
    kurtosis = (noise**4).mean() / (noise**2).mean() ** 2
    assert abs((noise**2).mean() - 1) < 0.05
    assert kurtosis > 4.5, "Student's t with 6 degrees of freedom has kurtosis 6, a Gaussian 3"


def test_drift_scales_the_background(scanner: FflScanner) -> None:
    quiet = replace(scanner, noise_voltage=1e-9)
    frames = receiver_frames(
        quiet, np.zeros((3, 4, 1, 52), np.complex128), ReceiverNoise(drift=0.2), np.random.default_rng(0)
    )
    assert_allclose(frames[1], 1.1 * frames[0], rtol=1e-5)
    assert_allclose(frames[2], 1.2 * frames[0], rtol=1e-5)


@pytest.mark.parametrize("degrees", [2.0, 0.0, float("nan")])
def test_noise_without_variance_is_refused(degrees: float) -> None:
    with pytest.raises(InputError, match="more than 2"):
        ReceiverNoise(degrees_of_freedom=degrees)


def test_calibration_file_holds_the_response(scanner: FflScanner) -> None:
    quiet = replace(scanner, noise_voltage=1e-12, background_voltage=1e-12)
    file = simulate_calibration(quiet, seed=3)
    frames = spectra(file)
    mask = background_mask(file)
    assert mask.sum() == CALIBRATION_BACKGROUND_FRAMES
    assert np.array_equal(bins(file), scanner.bins)
    assert calibration_grid(file) == scanner.grid
    response = system_response(scanner)
    assert_allclose(frames[~mask], response, rtol=0, atol=SINGLE * np.abs(response).max())


def test_calibration_repeats_with_its_seed(scanner: FflScanner) -> None:
    one, same, other = (spectra(simulate_calibration(scanner, seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_measurement_has_the_asked_snr_and_truth(scanner: FflScanner) -> None:
    strong = replace(scanner, noise_voltage=1e-4)  # so that all rows pass the selection
    result = simulate_measurement(strong, 6, 20.0, seed=5)
    assert result.truth.shape == (6, 1, 4, 6)
    assert result.truth.min() >= 0
    assert_allclose(result.snr_db.mean(), 20.0, atol=1e-9)
    frames, mask = spectra(result.file), background_mask(result.file)
    assert mask.sum() == MEASUREMENT_BACKGROUND_FRAMES
    clean = simulate_measurement(replace(strong, noise_voltage=1e-4), 6, 120.0, seed=5)
    ratio = 10 ** ((20.0 - 120.0) / 20)
    reference = (spectra(clean.file) - spectra(clean.file)[mask].mean(0))[~mask] * ratio
    measured = (frames - frames[mask].mean(0))[~mask]
    rows = (
        np.sqrt(np.mean(np.abs(system_response(strong)) ** 2, axis=0)) / (np.sqrt(2) * 1e-4) > SELECTION_SNR
    )
    got = snr_db(stack_real(reference[:, rows]), stack_real(measured[:, rows]))
    # The subtracted mean background adds 1/40 of the noise power (0.1 dB), 208 rows leave 0.3 dB of chance.
    assert_allclose(got, result.snr_db, atol=1.0)
    assert abs(got.mean() - 20.0) < 0.5


def test_gradient_has_one_divergence_free_matrix_per_angle(scanner: FflScanner) -> None:
    gradient = mdf_acquisition(scanner).gradient
    assert gradient is not None
    assert gradient.shape == (4, 1, 3, 3)
    assert_allclose(np.trace(gradient, axis1=2, axis2=3), 0.0, atol=1e-15)
    along = np.stack([-np.sin(scanner.angles), np.cos(scanner.angles), np.zeros(4)], axis=1)
    assert_allclose(np.einsum("jik,jk->ji", gradient[:, 0], along), 0.0, atol=1e-15)


def test_impossible_requests_are_refused(scanner: FflScanner) -> None:
    with pytest.raises(InputError, match="at least 1"):
        simulate_measurement(scanner, 0, 20.0)
    with pytest.raises(InputError, match="finite"):
        simulate_measurement(scanner, 1, float("nan"))
    with pytest.raises(InputError, match="less noise"):
        simulate_measurement(replace(scanner, noise_voltage=1e6), 1, 20.0)
    with pytest.raises(InputError, match=r"reference-0\.5"):
        preset_scanner("reference-0.7")
