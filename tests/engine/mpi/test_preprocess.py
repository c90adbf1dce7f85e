import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import SelectionError
from engine.mpi.preprocess import (
    converted_spectra,
    drive_frequency,
    frequency_band,
    harmonic_bins,
    nearest_harmonic,
    noise_std,
    row_snr,
    spectra_of_signals,
    subtract_background,
)

# A handful of sums and square roots in double precision.
ROUNDING = 1e-12

# Values stored with 24 bits.
SINGLE_ROUNDING = 2.0**-23


def complex_normal(rng, shape):
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def test_noise_level_is_recovered_within_its_sampling_error():
    rng = np.random.default_rng(11)
    n_frames, level = 40, rng.uniform(0.5, 3.0, (6, 2, 50))
    background = 100 + 7j + level * complex_normal(rng, (n_frames, *level.shape))
    ratio = noise_std(background) / level
    # The estimate of a row has 2 (E - 1) = 78 degrees of freedom, so a relative standard error of
    # 1 / sqrt(2 * 78) = 0.080. The largest of 600 stays below 4.5 of these (chance of more: 0.4 %), the
    # mean of all within 4 standard errors of 1 (the bias of a root, 1 / (4 * 78) = 0.0032, is added).
    error = 1 / np.sqrt(4 * (n_frames - 1))
    assert np.max(np.abs(ratio - 1)) < 4.5 * error
    assert abs(ratio.mean() - 1) < 4 * error / np.sqrt(ratio.size) + 0.0032


def test_noise_pools_real_and_imaginary_parts_of_known_frames():
    # Deviations +-1 (real) and +-2 (imaginary) about the mean: (2 * 1 + 2 * 4) / (2 * (2 - 1)) = 5.
    background = np.array([6 + 3j, 4 - 1j]).reshape(2, 1, 1, 1)
    assert noise_std(background) == pytest.approx(np.sqrt(5.0), rel=ROUNDING)


def test_noise_of_single_precision_frames_on_a_large_background():
    # The mean is formed in double precision: a float32 sum of 10^6 would lose deviations of order one.
    rng = np.random.default_rng(2)
    steps = rng.integers(-8, 9, (64, 1, 1, 3)) + 1j * rng.integers(-8, 9, (64, 1, 1, 3))
    exact = np.sqrt((np.var(steps.real, axis=0, ddof=1) + np.var(steps.imag, axis=0, ddof=1)) / 2)
    np.testing.assert_allclose(noise_std((1e6 + steps).astype(np.complex64)), exact, rtol=ROUNDING)


def test_one_background_frame_is_not_enough_for_noise():
    with pytest.raises(SelectionError, match="1 background frames"):
        noise_std(np.ones((1, 2, 1, 3), complex))


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 4))
def test_background_is_removed_from_interleaved_frames(seed, n_signal, n_background):
    rng = np.random.default_rng(seed)
    mask = rng.permutation(np.arange(n_signal + n_background) < n_background)
    signal = complex_normal(rng, (n_signal, 2, 1, 3))
    background = complex_normal(rng, (2, 1, 3))
    frames = np.tile(background, (len(mask), 1, 1, 1))
    frames[~mask] += signal
    np.testing.assert_allclose(subtract_background(frames, mask), signal, atol=ROUNDING)


def test_subtraction_without_background_is_refused():
    with pytest.raises(SelectionError, match="no background frame"):
        subtract_background(np.ones((2, 1, 1, 1), complex), np.zeros(2, bool))


def test_row_snr_follows_its_definition():
    foreground = np.array([[3 + 4j, 1], [0, 1], [5j, 1]]).reshape(3, 1, 1, 2)
    # rms of (5, 0, 5) and of (1, 1, 1) over sqrt(2) * noise.
    expected = [np.sqrt(50 / 3) / (np.sqrt(2) * 2), 1 / (np.sqrt(2) * 0.5)]
    snr = row_snr(foreground, np.array([2.0, 0.5]).reshape(1, 1, 2))
    np.testing.assert_allclose(snr.ravel(), expected, rtol=ROUNDING)


@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_row_snr_does_not_depend_on_the_unit(unit):
    """The squares of single-precision values underflow or overflow where the values do not."""
    foreground = np.full((3, 1, 1, 1), unit * (3 + 4j), np.complex64)
    snr = row_snr(foreground, np.full((1, 1, 1), unit))
    np.testing.assert_allclose(snr, 5 / np.sqrt(2), rtol=SINGLE_ROUNDING)


def test_row_snr_of_noise_alone_is_one():
    rng = np.random.default_rng(3)
    noise = complex_normal(rng, (400, 5, 1, 7))
    # Mean power of 400 complex samples has a relative error of 1/20, its root 1/40; 5 of these over 35 rows.
    np.testing.assert_allclose(row_snr(noise, np.ones((5, 1, 7))), 1.0, atol=5 / 40)


def test_row_snr_without_noise_is_infinite_only_where_there_is_signal():
    foreground = np.array([1.0 + 0j, 0.0]).reshape(1, 1, 1, 2)
    np.testing.assert_array_equal(row_snr(foreground, np.zeros((1, 1, 2))).ravel(), [np.inf, 0.0])


def test_reference_band_has_13_bins_around_each_harmonic():
    frequencies = 100.0 * np.arange(5001)
    inside = harmonic_bins(frequencies, 26e3, (2, 11), 650.0)
    expected = {260 * k + step for k in range(2, 12) for step in range(-6, 7)}
    assert set(np.flatnonzero(inside)) == expected


def test_a_bin_on_the_limit_is_inside_despite_rounding():
    spacing = 1e5 / 3
    frequencies = spacing * np.arange(100)
    inside = harmonic_bins(frequencies, 10 * spacing, (2, 3), spacing)
    assert list(np.flatnonzero(inside)) == [19, 20, 21, 29, 30, 31]
    assert list(np.flatnonzero(frequency_band(frequencies, 3 * spacing, 5 * spacing))) == [3, 4, 5]


def test_band_without_maximum_reaches_the_last_bin():
    assert list(frequency_band(np.array([0.0, 1.0, 2.0]), 1.0, None)) == [False, True, True]


def test_wide_bands_that_overlap_give_each_bin_to_the_closest_harmonic():
    frequencies = np.array([9.0, 14.0, 16.0, 21.0, 24.0, 26.0])
    assert list(nearest_harmonic(frequencies, 10.0, (1, 2))) == [1, 1, 2, 2, 2, 2]
    assert list(harmonic_bins(frequencies, 10.0, (1, 2), 5.0)) == [True, True, True, True, True, False]


def test_drive_frequency_is_base_over_divider():
    assert drive_frequency(2.5e6, np.array([[96], [96]])) == pytest.approx(2.5e6 / 96)


def test_several_drive_frequencies_have_no_harmonics():
    with pytest.raises(SelectionError, match=r"24509\.8, 26041\.7|26041\.7, 25252\.5"):
        drive_frequency(2.5e6, np.array([[102], [96], [99]]))


@given(st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_spectra_are_the_sums_of_the_transform_of_converted_signals(n_samples, seed):
    """Against the defining sum; conversion before the transform and after it are the same."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(-100, 100, (2, 3, n_samples))  # periods, channels, samples
    conversion = rng.uniform(-2, 2, (3, 2))
    signals = conversion[:, :1] * counts + conversion[:, 1:]
    bins = np.arange(n_samples // 2 + 1)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(n_samples), bins) / n_samples)
    largest = 1 + np.abs(signals).sum(axis=-1).max()
    np.testing.assert_allclose(
        spectra_of_signals(counts, conversion), signals @ waves, rtol=0, atol=ROUNDING * largest
    )
    after = converted_spectra(spectra_of_signals(counts), conversion, n_samples, bins)
    np.testing.assert_allclose(after, signals @ waves, rtol=0, atol=ROUNDING * largest)
