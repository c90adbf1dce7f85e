from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.calibration.calibrate import CalibrationConfig, calibrate
from engine.errors import MdfError, PairingError
from engine.measurement.file_rows import measurement_rows, whiten_rows
from engine.mpi.mdf.new_files import new_measurement_file, new_reconstruction_file

CONFIG = CalibrationConfig(harmonics=(2, 3), harmonic_half_width=200.0)
BAND = [18, 19, 20, 21, 22, 28, 29, 30, 31, 32]

# Whitened values of up to some 10^3, rounded to single precision.
SINGLE = 2e-4


@pytest.fixture(scope="module")
def operators(scan):
    return calibrate(scan.calibration(), CONFIG)


@pytest.fixture(scope="module")
def frames(scan):
    """Three measured frames of random images, then four background frames."""
    rng = np.random.default_rng(21)
    concentrations = np.concatenate([rng.uniform(0, 2, (3, 20)), np.zeros((4, 20))])
    return scan.frames(concentrations, rng)


MASK = np.array([False] * 3 + [True] * 4)


def by_definition(differences, operators):
    """Whitened real-stacked rows of (F, 3, 2, 101) spectra without background."""
    complex_rows = differences[..., BAND].reshape(len(differences), 60)[:, operators.layout.index]
    whitened = complex_rows / operators.noise_std
    return np.concatenate([whitened.real, whitened.imag], axis=1)


def test_rows_are_those_of_the_definition(scan, operators, frames):
    result = measurement_rows(scan.measurement(frames, MASK), operators)
    expected = by_definition(frames[:3] - frames[3:].mean(axis=0), operators)
    assert result.rows.dtype == np.float32
    assert result.rows.flags.c_contiguous
    assert result.notes == ()
    np.testing.assert_allclose(result.rows, expected, rtol=0, atol=SINGLE)


def test_rows_are_the_normalised_matrix_times_the_image(scan, operators):
    # Superpose the very frames that the operators were made of, on another background.
    stored = np.moveaxis(scan.calibration().measurement.data.astype(np.complex128), -1, 0)
    image = np.random.default_rng(22).uniform(0, 2, 20)
    measured = np.tensordot(image, stored[:20] - stored[20:].mean(axis=0), axes=1) + 7j
    file = scan.measurement(np.stack([measured, np.full_like(measured, 7j)]), np.array([False, True]))
    rows = measurement_rows(file, operators).rows[0]
    model = operators.scale * operators.system_matrix.astype(np.float64) @ image
    np.testing.assert_allclose(rows, model, rtol=0, atol=SINGLE)


def test_time_signals_and_spectra_give_the_same_rows(scan, operators, frames):
    from_spectra = measurement_rows(scan.measurement(frames, MASK), operators)
    signals = np.fft.irfft(frames, 200, axis=-1)
    file = new_measurement_file(signals, acquisition=scan.acquisition(), background_mask=MASK)
    from_time = measurement_rows(file, operators)
    np.testing.assert_allclose(from_time.rows, from_spectra.rows, rtol=0, atol=SINGLE)


def test_raw_counts_are_converted(scan, operators, frames):
    signals = np.fft.irfft(frames, 200, axis=-1)
    gain, offset = np.array([2e-6, 3e-6]), np.array([0.1, -0.2])
    counts = np.rint((signals - offset[:, None]) / gain[:, None]).astype(np.int32)
    acquisition = scan.acquisition(data_conversion_factor=np.stack([gain, offset], axis=1))
    file = new_measurement_file(counts, acquisition=acquisition, background_mask=MASK)
    expected = by_definition(frames[:3] - frames[3:].mean(axis=0), operators)
    # Rounding to counts is noise of gain / sqrt(12) per sample, sqrt(200 / 2) of it in each part of a bin,
    # over noise levels of at least 0.03; six deviations.
    tolerance = 6 * 3e-6 / np.sqrt(12) * np.sqrt(100) / 0.03
    np.testing.assert_allclose(measurement_rows(file, operators).rows, expected, rtol=0, atol=tolerance)


@settings(max_examples=20)
@given(st.permutations(range(101)), st.integers(0, 80))
def test_any_stored_selection_that_covers_the_rows_will_do(scan, operators, frames, order, dropped):
    unused = [b for b in order if b not in BAND]
    stored = [b for b in order if b not in unused[:dropped]]
    result = measurement_rows(scan.measurement(frames, MASK, bins=stored), operators)
    expected = by_definition(frames[:3] - frames[3:].mean(axis=0), operators)
    np.testing.assert_allclose(result.rows, expected, rtol=0, atol=SINGLE)


def test_only_bins_in_use_are_needed(scan, frames):
    snr = np.zeros((3, 2, 101))
    snr[..., [19, 30]] = 10.0
    operators = calibrate(scan.calibration(snr=snr), CONFIG)
    rows = measurement_rows(scan.measurement(frames, MASK, bins=[30, 19]), operators).rows
    everything = measurement_rows(scan.measurement(frames, MASK), operators).rows
    np.testing.assert_array_equal(rows, everything)


def test_selected_channels(scan, frames):
    operators = calibrate(scan.calibration(), replace(CONFIG, channels=(1,), snr_threshold=0.0))
    rows = measurement_rows(scan.measurement(frames, MASK), operators).rows
    difference = (frames[:3] - frames[3:].mean(axis=0))[:, :, 1][..., BAND].reshape(3, 30)
    expected = (difference / operators.noise_std).view(np.float64).reshape(3, 30, 2)
    np.testing.assert_allclose(rows, np.concatenate([expected[..., 0], expected[..., 1]], 1), atol=SINGLE)


def test_a_corrected_background_is_not_subtracted_again(scan, operators, frames):
    corrected = frames - frames[3:].mean(axis=0)
    corrected[3:] += 3.0
    file = scan.measurement(corrected, MASK, is_background_corrected=True)
    result = measurement_rows(file, operators)
    np.testing.assert_allclose(result.rows, by_definition(corrected[:3], operators), rtol=0, atol=SINGLE)
    assert "not subtracted again" in result.notes[0]


def test_a_missing_background_is_noted(scan, operators, frames):
    result = measurement_rows(scan.measurement(frames[:3]), operators)
    np.testing.assert_allclose(result.rows, by_definition(frames[:3], operators), rtol=0, atol=SINGLE)
    assert "nothing was subtracted" in result.notes[0]
    assert result.background_sigma is None
    flagged = measurement_rows(scan.measurement(frames[:3], is_background_corrected=True), operators)
    assert flagged.notes == ()
    np.testing.assert_array_equal(flagged.rows, result.rows)


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_background_sigma_compares_the_noise_with_the_calibrations(scan, factor):
    operators = calibrate(scan.calibration(n_background=400), replace(CONFIG, snr_threshold=0.0))
    noisier = replace(scan, noise=factor * scan.noise)
    frames = noisier.frames(np.zeros((51, 20)), np.random.default_rng(23))
    result = measurement_rows(scan.measurement(frames, np.arange(51) > 0), operators)
    # 60 rows of 2 * 49 degrees of freedom (error of sigma 0.9 %), each over one of 2 * 399 (0.3 %).
    assert result.background_sigma == pytest.approx(factor, rel=4 * 0.01)


def test_frames_come_in_the_order_of_acquisition(scan, operators, frames):
    slots = np.array([5, 0, 3, 1, 2, 4, 6])
    stored = scan.measurement(frames, MASK, is_frame_permutation=True, frame_permutation=slots + 1)
    expected = measurement_rows(scan.measurement(frames, MASK), operators).rows[[1, 2, 0]]
    np.testing.assert_array_equal(measurement_rows(stored, operators).rows, expected)


@pytest.mark.parametrize("bins", [range(101), BAND], ids=["full axis", "bins of the operators"])
def test_live_spectra(scan, operators, frames, bins):
    difference = frames[:3] - frames[3:].mean(axis=0)
    rows = whiten_rows(difference[..., list(bins)], operators)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, by_definition(difference, operators), rtol=0, atol=SINGLE)


@pytest.mark.parametrize("shape", [(3, 2, 101), (1, 2, 2, 101), (1, 3, 1, 101), (1, 3, 2, 100)])
def test_live_spectra_of_another_shape_are_refused(operators, shape):
    with pytest.raises(PairingError, match="3 periods, 2 channels, 101 or 10 bins"):
        whiten_rows(np.ones(shape, complex), operators)


def with_receiver(file, **changes):
    receiver = replace(file.acquisition.receiver, **changes)
    return replace(file, acquisition=replace(file.acquisition, receiver=receiver))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: with_receiver(f, bandwidth=12e3), "bandwidth .*12000.0 .*10000.0"),
        (lambda f: with_receiver(f, num_sampling_points=201), "samples .*201 .*200"),
        (lambda f: with_receiver(f, num_channels=3), "channels: 3 .*2"),
        (lambda f: with_receiver(f, unit="A"), "unit .*A .*V"),
        (
            lambda f: replace(f, acquisition=replace(f.acquisition, num_periods_per_frame=4)),
            "periods .*4 .*3",
        ),
        (
            lambda f: replace(f, measurement=replace(f.measurement, is_transfer_function_corrected=True)),
            "isTransferFunctionCorrected: True .* False",
        ),
    ],
)
def test_measurements_of_another_setting_are_refused(scan, operators, frames, change, message):
    with pytest.raises(PairingError, match=message):
        measurement_rows(change(scan.measurement(frames, MASK)), operators)


def test_a_missing_bin_is_named_by_its_frequency(scan, operators, frames):
    stored = [b for b in range(101) if b not in (20, 30)]
    with pytest.raises(PairingError, match=r"2 of the \d+ .*2000 Hz"):
        measurement_rows(scan.measurement(frames, MASK, bins=stored), operators)


def test_a_bandwidth_within_rounding_is_the_same(scan, operators, frames):
    file = with_receiver(scan.measurement(frames, MASK), bandwidth=float(np.float32(10e3 * (1 + 1e-7))))
    assert len(measurement_rows(file, operators).rows) == 3


def test_a_reconstruction_is_no_measurement(scan, operators, frames):
    images = np.zeros((1, *scan.grid.volume_shape), np.float32)
    file = new_reconstruction_file(images, scan.grid, scan.measurement(frames, MASK))
    with pytest.raises(MdfError, match="measurement"):
        measurement_rows(file, operators)
