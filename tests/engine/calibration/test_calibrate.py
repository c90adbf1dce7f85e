import hashlib
from dataclasses import replace

import numpy as np
import pytest

from engine.calibration.calibrate import (
    CalibrationConfig,
    calibrate,
    calibrate_with_report,
    make_operators,
    system_matrix_from_mdf,
)
from engine.calibration.row_selection import select_rows
from engine.errors import ConfigError, MdfError, SelectionError
from engine.mpi.mdf import write_mdf
from engine.mpi.mdf.new_files import new_measurement_file

# Bins within 200 Hz of the 2nd and 3rd harmonic of 1 kHz at 100 Hz per bin.
BAND = [18, 19, 20, 21, 22, 28, 29, 30, 31, 32]
CONFIG = CalibrationConfig(harmonics=(2, 3), harmonic_half_width=200.0)

# The files store single precision; whitened values reach a few hundred.
STORED = 1e-4


def rows_by_definition(file, threshold=5.0, channels=(0, 1), band=BAND):
    """Sec. IV-C spelled out: one row at a time, from a file that stores the full axis."""
    data = np.moveaxis(file.measurement.data.astype(np.complex128), -1, 0)
    foreground, background = data[:20], data[20:]
    places, rows, noise = [], [], []
    place = 0
    for period in range(3):
        for channel in channels:
            for k in band:
                empty = background[:, period, channel, k]
                std = np.sqrt((np.var(empty.real, ddof=1) + np.var(empty.imag, ddof=1)) / 2)
                signal = foreground[:, period, channel, k] - empty.mean()
                if np.sqrt(np.mean(np.abs(signal) ** 2)) / (np.sqrt(2) * std) > threshold:
                    places.append(place)
                    rows.append(signal / std)
                    noise.append(std)
                place += 1
    return places, np.array(rows), np.array(noise)


@pytest.fixture(scope="module")
def calibration(scan):
    return scan.calibration()


def assert_same_matrix(a, b, atol=STORED):
    np.testing.assert_array_equal(a.layout.index, b.layout.index)
    np.testing.assert_array_equal(a.acquisition.bins, b.acquisition.bins)
    np.testing.assert_allclose(a.rows, b.rows, rtol=0, atol=atol)
    np.testing.assert_allclose(a.noise_std, b.noise_std, rtol=STORED)


def test_rows_are_those_of_the_definition(calibration, scan):
    matrix = system_matrix_from_mdf(calibration, CONFIG)
    places, rows, noise = rows_by_definition(calibration)
    assert 10 < len(places) < 60, "the threshold should cut through the band"
    assert matrix.layout.shape == (6, 10)
    np.testing.assert_array_equal(matrix.layout.index, places)
    np.testing.assert_allclose(matrix.rows, rows, rtol=1e-10)
    np.testing.assert_allclose(matrix.noise_std, noise, rtol=1e-10)
    np.testing.assert_array_equal(matrix.acquisition.bins, BAND)
    assert matrix.grid == scan.grid


def test_whitened_noise_has_unit_deviation(scan):
    # Difference of the measured matrix and the noise-free one, in units of the noise estimated from 200
    # background frames (error 1/sqrt(4 * 199) = 3.5 %): over 60 rows x 20 voxels x 2 parts its deviation has
    # an error of 1/sqrt(2 * 2400) = 1.4 %; the mean background adds 1/400. Four of these errors.
    matrix = system_matrix_from_mdf(scan.calibration(n_background=200), replace(CONFIG, snr_threshold=0.0))
    clean = scan.signal[..., BAND].reshape(20, 60).T / matrix.noise_std[:, None]
    deviation = (matrix.rows - clean).view(np.float64).std()
    assert deviation == pytest.approx(1.0, abs=4 * 0.015)


def test_channels_can_be_selected(calibration):
    matrix = system_matrix_from_mdf(calibration, replace(CONFIG, channels=(1,)))
    places, rows, _ = rows_by_definition(calibration, channels=(1,))
    assert matrix.layout.shape == (3, 10)
    np.testing.assert_array_equal(matrix.layout.index, places)
    np.testing.assert_allclose(matrix.rows, rows, rtol=1e-10)
    np.testing.assert_array_equal(matrix.acquisition.channels, [1])
    assert matrix.acquisition.n_channels == 2


def test_a_higher_threshold_keeps_fewer_rows(calibration):
    loose, strict = (
        system_matrix_from_mdf(calibration, replace(CONFIG, snr_threshold=t)).layout.index for t in (5, 20)
    )
    assert set(strict) < set(loose)
    np.testing.assert_array_equal(strict, rows_by_definition(calibration, 20.0)[0])


@pytest.mark.parametrize("bins", [BAND, [*BAND[::-1], 50, 7], np.random.default_rng(1).permutation(101)])
def test_the_stored_selection_of_bins_does_not_matter(scan, calibration, bins):
    expected = system_matrix_from_mdf(calibration, CONFIG)
    assert_same_matrix(system_matrix_from_mdf(scan.calibration(bins=bins), CONFIG), expected)


def test_candidates_are_the_bins_the_file_has(scan):
    matrix = system_matrix_from_mdf(scan.calibration(bins=[20, 18, 29, 40]), CONFIG)
    np.testing.assert_array_equal(matrix.acquisition.bins, [18, 20, 29])
    assert matrix.layout.shape == (6, 3)


def test_time_signals_give_the_same_matrix(calibration):
    stored = np.moveaxis(calibration.measurement.data, -1, 0)
    signals = replace(
        calibration.measurement,
        data=np.fft.irfft(stored.astype(np.complex128), 200, axis=-1),
        is_fourier_transformed=False,
        is_fast_frame_axis=False,
    )
    from_time = system_matrix_from_mdf(replace(calibration, measurement=signals), CONFIG)
    assert_same_matrix(from_time, system_matrix_from_mdf(calibration, CONFIG))


def test_a_corrected_background_is_not_subtracted_again(calibration):
    data = calibration.measurement.data.astype(np.complex128)
    data -= data[..., 20:].mean(axis=-1, keepdims=True)
    # Leave an offset in the background frames that a second subtraction would put into every row.
    data[..., 20:] += 3.0
    corrected = replace(calibration.measurement, data=data, is_background_corrected=True)
    matrix = system_matrix_from_mdf(replace(calibration, measurement=corrected), CONFIG)
    assert_same_matrix(matrix, system_matrix_from_mdf(calibration, CONFIG), atol=1e-8)


def test_background_frames_may_stand_anywhere(calibration):
    order = np.random.default_rng(6).permutation(32)
    # Keep the voxels in their order: only the background is scattered among them.
    is_background = order >= 20
    order[~is_background] = np.arange(20)
    order[is_background] = np.arange(20, 32)
    shuffled = replace(
        calibration.measurement,
        data=calibration.measurement.data[..., order],
        is_background_frame=is_background,
        is_frame_permutation=False,
        frame_permutation=None,
    )
    matrix = system_matrix_from_mdf(replace(calibration, measurement=shuffled), CONFIG)
    assert_same_matrix(matrix, system_matrix_from_mdf(calibration, CONFIG))


def test_a_meandering_acquisition_is_put_in_grid_order(calibration):
    # Every second line of five voxels was measured backwards; such a file carries no permutation.
    walk = np.arange(20).reshape(4, 5)
    walk[1::2] = walk[1::2, ::-1]
    data = calibration.measurement.data.copy()
    data[..., :20] = data[..., walk.ravel()]
    file = replace(
        calibration,
        measurement=replace(
            calibration.measurement, data=data, is_frame_permutation=False, frame_permutation=None
        ),
        calibration=replace(calibration.calibration, is_meandering_grid=True),
    )
    assert_same_matrix(system_matrix_from_mdf(file, CONFIG), system_matrix_from_mdf(calibration, CONFIG))


@pytest.mark.parametrize("axis", ["stored bins", "full axis"])
def test_the_snr_of_the_file_goes_first(scan, axis):
    full = np.random.default_rng(9).uniform(0, 10, (3, 2, 101))
    stored = BAND[::-1]
    snr = full if axis == "full axis" else full[..., stored]
    selected = select_rows(scan.calibration(bins=stored, snr=snr), CONFIG)
    expected = full[..., BAND].ravel()
    np.testing.assert_array_equal(selected.system_matrix.layout.index, np.flatnonzero(expected > 5))
    np.testing.assert_array_equal(selected.snr, expected[expected > 5])
    assert selected.snr_source == "stored in the file"


def test_band_by_frequency_for_several_drive_frequencies(scan):
    file = scan.calibration(divider=(10, 9, 8))
    with pytest.raises(SelectionError, match="harmonics"):
        system_matrix_from_mdf(file, CONFIG)
    by_frequency = CalibrationConfig(harmonics=None, min_frequency=1500.0, max_frequency=2200.0)
    matrix = system_matrix_from_mdf(file, by_frequency)
    np.testing.assert_array_equal(matrix.acquisition.bins, np.arange(15, 23))
    np.testing.assert_array_equal(matrix.layout.index, rows_by_definition(file, band=range(15, 23))[0])


def test_drive_channels_that_are_off_do_not_count(scan):
    file = scan.calibration(divider=(10, 9))
    drive = file.acquisition.drivefield
    strength = drive.strength.copy()
    strength[:, 1] = 0.0
    acquisition = replace(file.acquisition, drivefield=replace(drive, strength=strength))
    matrix = system_matrix_from_mdf(replace(file, acquisition=acquisition), CONFIG)
    np.testing.assert_array_equal(matrix.acquisition.bins, BAND)


def test_frequency_limits_cut_the_harmonics(calibration):
    cut = replace(CONFIG, min_frequency=2000.0, max_frequency=3000.0)
    matrix = system_matrix_from_mdf(calibration, cut)
    np.testing.assert_array_equal(matrix.acquisition.bins, [20, 21, 22, 28, 29, 30])


def test_grid_options(calibration):
    plain = system_matrix_from_mdf(calibration, CONFIG)
    fine = system_matrix_from_mdf(calibration, replace(CONFIG, upsample=2))
    smooth = system_matrix_from_mdf(calibration, replace(CONFIG, smooth=True))
    np.testing.assert_array_equal(fine.rows, plain.upsampled(2).rows)
    np.testing.assert_array_equal(smooth.rows, plain.smoothed().rows)
    assert fine.grid.size == (10, 8, 1)


def test_calibrate_records_the_hash_of_the_file(calibration, tmp_path):
    path = tmp_path / "system-matrix.mdf"
    write_mdf(path, calibration)
    operators = calibrate(path, replace(CONFIG, rank=7))
    assert operators.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert operators.rank == 7
    from_memory = calibrate(calibration, CONFIG)
    assert from_memory.source_sha256 == ""
    expected = make_operators(system_matrix_from_mdf(calibration, CONFIG))
    np.testing.assert_array_equal(from_memory.system_matrix, expected.system_matrix)
    np.testing.assert_array_equal(operators.system_matrix, expected.system_matrix)


def test_report_counts_rows_per_harmonic(calibration):
    operators, report = calibrate_with_report(calibration, CONFIG)
    per_harmonic = [np.count_nonzero(operators.layout.index % 10 // 5 == h) for h in (0, 1)]
    text = "\n".join(report)
    assert f"rows per harmonic: 2: {per_harmonic[0]}, 3: {per_harmonic[1]}" in text
    assert f"rows: {operators.layout.n_rows} of 60" in text
    assert "SNR computed from the background frames" in text
    assert "noise level" not in text


def test_report_says_when_there_are_too_few_rows_for_the_noise(calibration):
    operators, report = calibrate_with_report(calibration, replace(CONFIG, snr_threshold=40.0))
    assert operators.n_rows < 2 * 20
    assert "has to be given to the reconstruction" in report[-1]


def test_report_of_an_upsampled_matrix_calls_it_singular(calibration):
    _, report = calibrate_with_report(calibration, replace(CONFIG, upsample=2))
    assert "condition number inf" in "\n".join(report)


def test_state_of_the_spectra_is_recorded(calibration):
    corrected = replace(calibration.measurement, is_transfer_function_corrected=True)
    acquisition = system_matrix_from_mdf(replace(calibration, measurement=corrected), CONFIG).acquisition
    assert acquisition.is_transfer_function_corrected
    assert not system_matrix_from_mdf(calibration, CONFIG).acquisition.is_transfer_function_corrected
    assert acquisition.unit == "V"
    assert (acquisition.bandwidth, acquisition.n_samples, acquisition.n_periods) == (10e3, 200, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"snr_threshold": 1e9}, "no row of 60"),
        ({"harmonics": (20, 21)}, "101 frequency bins"),
        ({"min_frequency": 2310.0, "max_frequency": 2340.0}, "101 frequency bins"),
        ({"channels": (0, 2)}, "has 2"),
        ({"channels": (-1,)}, "has 2"),
        ({"rank": 21}, "rank 21"),
    ],
)
def test_impossible_selections_are_refused(calibration, changes, message):
    with pytest.raises(SelectionError, match=message):
        calibrate(calibration, replace(CONFIG, **changes))


@pytest.mark.parametrize("n_background", [0, 1])
def test_noise_needs_background_frames(scan, n_background):
    with pytest.raises(SelectionError, match=f"{n_background} background frames"):
        calibrate(scan.calibration(n_background=n_background), CONFIG)


def test_background_frames_without_noise_are_refused(calibration):
    data = calibration.measurement.data.copy()
    data[..., 20:] = data[..., 20:21]
    silent = replace(calibration, measurement=replace(calibration.measurement, data=data))
    with pytest.raises(SelectionError, match="positive noise"):
        calibrate(silent, CONFIG)


def test_a_measurement_is_no_calibration(scan):
    file = new_measurement_file(np.ones((1, 3, 2, 101), complex), acquisition=scan.acquisition())
    with pytest.raises(MdfError, match="no calibration"):
        calibrate(file, CONFIG)


@pytest.mark.parametrize(
    "values",
    [
        {"snr_threshold": -1.0},
        {"snr_threshold": np.nan},
        {"harmonics": (3, 2)},
        {"harmonics": (0, 2)},
        {"harmonic_half_width": -1.0},
        {"harmonic_half_width": np.inf},
        {"min_frequency": -1.0},
        {"min_frequency": 2.0, "max_frequency": 1.0},
        {"max_frequency": np.nan},
        {"channels": ()},
        {"channels": (1, 1)},
        {"upsample": 0},
    ],
)
def test_impossible_configurations_are_refused(values):
    with pytest.raises(ConfigError, match="expected"):
        CalibrationConfig(**values)
