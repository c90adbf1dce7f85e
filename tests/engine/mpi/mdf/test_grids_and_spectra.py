"""Spectra, bins, frames in grid order, grids and images, against values laid out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from engine.errors import MdfError
from engine.mpi.grid import Grid
from engine.mpi.mdf import read_mdf
from engine.mpi.mdf.grids import (
    calibration_grid,
    calibration_snr,
    calibration_spectra,
    grid_frames,
    images,
    reconstruction_grid,
)
from engine.mpi.mdf.spectra import (
    acquisition_slots,
    background_mask,
    bins,
    frequencies,
    spectra,
    transfer_function,
)

# The reference transform below sums 14 terms of at most 1e6; double precision leaves about 1e-9 of that.
TRANSFORM_TOLERANCE = 1e-8


def fourier_sums(signals):
    """Return the spectra of real signals (..., V) on the full axis, by the defining sums."""
    n_samples = signals.shape[-1]
    samples, bin_numbers = np.arange(n_samples), np.arange(n_samples // 2 + 1)
    return signals @ np.exp(-2j * np.pi * np.outer(samples, bin_numbers) / n_samples)


def without_selection(content):
    """Turn the calibration into one on the full axis of 8 bins."""
    rng = np.random.default_rng(6)
    shape = (2, 3, 8, 27)
    content["/measurement/data"] = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    content["/measurement/isFrequencySelection"] = np.int8(0)
    del content["/measurement/frequencySelection"]
    del content["/calibration/snr"]
    return content


class TestBins:
    def test_selection_is_zero_based_and_keeps_its_order(self, raw_calibration, save_raw):
        file = read_mdf(save_raw(raw_calibration))
        np.testing.assert_array_equal(bins(file), np.array([5, 1, 7, 2]), strict=True)
        # bandwidth 700 Hz, 14 samples: 100 Hz from bin to bin
        np.testing.assert_allclose(frequencies(file), [500.0, 100.0, 700.0, 200.0])

    def test_full_axis_without_selection(self, raw_measurement, save_raw):
        file = read_mdf(save_raw(raw_measurement))
        np.testing.assert_array_equal(bins(file), np.arange(8), strict=True)
        assert frequencies(file)[-1] == pytest.approx(700.0)  # Nyquist

    def test_odd_number_of_samples(self, raw_measurement, save_raw):
        raw_measurement["/measurement/data"] = raw_measurement["/measurement/data"][..., :13]
        raw_measurement["/acquisition/receiver/numSamplingPoints"] = np.int64(13)
        file = read_mdf(save_raw(raw_measurement))
        np.testing.assert_array_equal(bins(file), np.arange(7))
        assert spectra(file).shape == (5, 2, 3, 7)


class TestSpectra:
    def test_time_signals_frames_first(self, raw_measurement, save_raw):
        values = spectra(read_mdf(save_raw(raw_measurement)))
        expected = fourier_sums(raw_measurement["/measurement/data"].astype(float))
        assert values.dtype == np.complex128
        np.testing.assert_allclose(values, expected, atol=TRANSFORM_TOLERANCE)

    def test_time_signals_frames_last(self, raw_measurement, save_raw):
        signals = raw_measurement["/measurement/data"]
        raw_measurement["/measurement/data"] = np.ascontiguousarray(signals.transpose(1, 2, 3, 0))
        raw_measurement["/measurement/isFastFrameAxis"] = np.int8(1)
        values = spectra(read_mdf(save_raw(raw_measurement)))
        np.testing.assert_allclose(values, fourier_sums(signals.astype(float)), atol=TRANSFORM_TOLERANCE)

    def test_spectra_frames_last_are_given_as_stored(self, raw_calibration, save_raw):
        values = spectra(read_mdf(save_raw(raw_calibration)))
        stored = raw_calibration["/measurement/data"]
        assert values.shape == (27, 2, 3, 4)
        np.testing.assert_array_equal(values, stored.transpose(3, 0, 1, 2), strict=True)

    def test_spectra_frames_first_are_given_as_stored(self, raw_calibration, save_raw):
        stored = np.ascontiguousarray(raw_calibration["/measurement/data"].transpose(3, 0, 1, 2))
        raw_calibration["/measurement/data"] = stored
        raw_calibration["/measurement/isFastFrameAxis"] = np.int8(0)
        np.testing.assert_array_equal(spectra(read_mdf(save_raw(raw_calibration))), stored, strict=True)

    @pytest.mark.parametrize(
        ("base", "dtype"), [("<i2", np.complex64), ("<i4", np.complex128), ("<i8", np.complex128)]
    )
    def test_integer_compounds_become_complex(self, raw_calibration, save_raw, base, dtype):
        numbers = np.round(1000 * raw_calibration["/measurement/data"])
        compound = np.empty(numbers.shape, [("i", base), ("r", base)])
        compound["r"], compound["i"] = numbers.real, numbers.imag
        raw_calibration["/measurement/data"] = compound
        values = spectra(read_mdf(save_raw(raw_calibration)))
        np.testing.assert_array_equal(values, numbers.transpose(3, 0, 1, 2).astype(dtype), strict=True)

    def test_large_integers_are_not_rounded_to_single_precision(self, raw_calibration, save_raw):
        compound = np.full((2, 3, 4, 27), 2**24 + 1, [("r", "<i4"), ("i", "<i4")])
        raw_calibration["/measurement/data"] = compound
        values = spectra(read_mdf(save_raw(raw_calibration)))
        assert np.all(values == (2**24 + 1) * (1 + 1j))

    def test_conversion_of_time_signals(self, raw_measurement, save_raw):
        factors = np.array([[2.0, 5.0], [-0.5, 0.0], [1e-3, -7.0]])
        raw_measurement["/acquisition/receiver/dataConversionFactor"] = factors
        values = spectra(read_mdf(save_raw(raw_measurement)))
        signals = raw_measurement["/measurement/data"].astype(float)
        converted = np.stack([a * signals[:, :, c] + b for c, (a, b) in enumerate(factors)], axis=2)
        np.testing.assert_allclose(values, fourier_sums(converted), atol=TRANSFORM_TOLERANCE)

    @pytest.mark.filterwarnings("ignore:.*dataConversionFactor")
    @pytest.mark.parametrize("selection", [None, [4, 1, 8], [4, 2, 8]])
    def test_conversion_of_spectra_equals_conversion_of_their_signals(
        self, raw_measurement, save_raw, selection
    ):
        factors = np.array([[2.0, 5.0], [-0.5, 0.0], [1e-3, -7.0]])
        raw_measurement["/acquisition/receiver/dataConversionFactor"] = factors
        from_signals = spectra(read_mdf(save_raw(raw_measurement)))
        stored = fourier_sums(raw_measurement["/measurement/data"].astype(float))
        kept = np.arange(8) if selection is None else np.array(selection) - 1
        raw_measurement["/measurement/data"] = stored[..., kept]
        raw_measurement["/measurement/isFourierTransformed"] = np.int8(1)
        if selection is not None:
            raw_measurement["/measurement/isFrequencySelection"] = np.int8(1)
            raw_measurement["/measurement/frequencySelection"] = np.array(selection)
        from_spectra = spectra(read_mdf(save_raw(raw_measurement, "spectra.mdf")))
        np.testing.assert_allclose(from_spectra, from_signals[..., kept], atol=TRANSFORM_TOLERANCE)

    @pytest.mark.parametrize("kept", [[7, 5], [2], [5, 1, 7, 2], []])
    def test_kept_bins_of_stored_spectra(self, raw_calibration, save_raw, kept):
        values = spectra(read_mdf(save_raw(raw_calibration)), np.array(kept, np.int64))
        columns = [[5, 1, 7, 2].index(number) for number in kept]
        expected = raw_calibration["/measurement/data"].transpose(3, 0, 1, 2)[..., columns]
        np.testing.assert_array_equal(values, expected, strict=True)

    def test_kept_bins_of_time_signals(self, raw_measurement, save_raw):
        file = read_mdf(save_raw(raw_measurement))
        kept = np.array([6, 0, 3])
        np.testing.assert_array_equal(spectra(file, kept), spectra(file)[..., kept], strict=True)

    def test_bins_that_are_not_stored(self, raw_calibration, save_raw):
        file = read_mdf(save_raw(raw_calibration))
        with pytest.raises(MdfError, match=r"2 of 3 .*first 3 "):
            spectra(file, np.array([5, 3, 9]))

    def test_reconstruction_has_no_spectra(self, raw_reconstruction, save_raw):
        file = read_mdf(save_raw(raw_reconstruction))
        for question in (spectra, bins, frequencies, background_mask, acquisition_slots):
            with pytest.raises(MdfError, match="no /measurement"):
                question(file)


class TestFrames:
    def test_mask_is_in_stored_order(self, raw_measurement, save_raw):
        mask = background_mask(read_mdf(save_raw(raw_measurement)))
        np.testing.assert_array_equal(mask, np.array([False, True, False, False, False]), strict=True)

    def test_slots_put_stored_frames_back_into_the_order_of_acquisition(self, raw_calibration, save_raw):
        stored = spectra(read_mdf(save_raw(raw_calibration)))
        slots = acquisition_slots(read_mdf(save_raw(raw_calibration)))
        acquired = np.empty_like(stored)
        acquired[slots] = stored
        permutation = raw_calibration["/measurement/framePermutation"]
        for place, slot in enumerate(permutation):
            np.testing.assert_array_equal(stored[place], acquired[slot - 1])

    def test_slots_without_permutation(self, raw_measurement, save_raw):
        np.testing.assert_array_equal(acquisition_slots(read_mdf(save_raw(raw_measurement))), np.arange(5))

    def test_permuted_calibration_is_in_grid_order_already(self, raw_calibration, save_raw):
        raw_calibration["/calibration/isMeanderingGrid"] = np.int8(1)
        file = read_mdf(save_raw(raw_calibration))
        np.testing.assert_array_equal(grid_frames(file), np.arange(24))
        expected = raw_calibration["/measurement/data"].transpose(3, 0, 1, 2)[:24]
        np.testing.assert_array_equal(calibration_spectra(file), expected)

    def test_background_frames_between_the_grid_points(self, raw_calibration, save_raw):
        mask = np.zeros(27, np.int8)
        mask[[0, 9, 26]] = 1
        raw_calibration["/measurement/isBackgroundFrame"] = mask
        file = read_mdf(save_raw(raw_calibration))
        np.testing.assert_array_equal(grid_frames(file), [*range(1, 9), *range(10, 26)])

    @pytest.mark.parametrize("size", [(4, 3, 2), (3, 4, 2), (2, 3, 4), (3, 2, 4), (24, 1, 1), (1, 6, 4)])
    def test_meandering_acquisition_is_sorted(self, raw_calibration, save_raw, size):
        nx, ny, nz = size
        visited = []  # walk the grid as a robot does: always to a neighbour
        x_way, y_way = list(range(nx)), list(range(ny))
        for z in range(nz):
            for y in y_way:
                visited += [(x, y, z) for x in x_way]
                x_way.reverse()
            y_way.reverse()
        steps = np.abs(np.diff(np.array(visited), axis=0)).sum(axis=1)
        assert np.all(steps == 1)
        raw_calibration["/calibration/size"] = np.array(size)
        raw_calibration["/calibration/isMeanderingGrid"] = np.int8(1)
        raw_calibration["/measurement/isFramePermutation"] = np.int8(0)
        del raw_calibration["/measurement/framePermutation"]
        frames = grid_frames(read_mdf(save_raw(raw_calibration)))
        for frame, (x, y, z) in enumerate(visited):
            assert frames.reshape(nz, ny, nx)[z, y, x] == frame

    def test_acquisition_line_by_line_is_in_grid_order(self, raw_calibration, save_raw):
        raw_calibration["/measurement/isFramePermutation"] = np.int8(0)
        np.testing.assert_array_equal(grid_frames(read_mdf(save_raw(raw_calibration))), np.arange(24))


class TestGrids:
    def test_calibration_grid(self, raw_calibration, save_raw):
        grid = calibration_grid(read_mdf(save_raw(raw_calibration)))
        assert grid == Grid((4, 3, 2), (0.04, 0.03, 0.02), (0.001, 0.0, -0.002))

    def test_missing_centre_is_the_scanner_centre(self, raw_calibration, save_raw):
        del raw_calibration["/calibration/fieldOfViewCenter"]
        assert calibration_grid(read_mdf(save_raw(raw_calibration))).center == (0.0, 0.0, 0.0)

    @pytest.mark.parametrize("name", ["size", "fieldOfView"])
    def test_incomplete_grid(self, raw_calibration, save_raw, name):
        del raw_calibration[f"/calibration/{name}"]
        file = read_mdf(save_raw(raw_calibration))
        with pytest.raises(MdfError, match=f"/calibration/{name} is missing"):
            calibration_grid(file)

    def test_other_axis_order(self, raw_calibration, save_raw):
        raw_calibration["/calibration/order"] = "zyx"
        file = read_mdf(save_raw(raw_calibration))
        with pytest.raises(MdfError, match="/calibration/order is 'zyx'"):
            calibration_grid(file)

    def test_positions_of_the_regular_grid(self, raw_calibration, save_raw):
        x, y, z = [-0.014, -0.004, 0.006, 0.016], [-0.01, 0.0, 0.01], [-0.007, 0.003]
        positions = np.array([(a, b, c) for c in z for b in y for a in x])
        raw_calibration["/calibration/positions"] = positions
        assert calibration_grid(read_mdf(save_raw(raw_calibration))).size == (4, 3, 2)

    def test_irregular_positions(self, raw_calibration, save_raw):
        raw_calibration["/calibration/positions"] = np.random.default_rng(5).normal(size=(24, 3))
        file = read_mdf(save_raw(raw_calibration))
        with pytest.raises(MdfError, match="/calibration/positions"):
            calibration_grid(file)

    def test_subsampled_grid(self, raw_calibration, save_raw):
        raw_calibration["/calibration/positions"] = np.zeros((24, 3))
        raw_calibration["/calibration/size"] = np.array([4, 4, 2])
        file = read_mdf(save_raw(raw_calibration))
        with pytest.raises(MdfError, match="/calibration/"):
            calibration_grid(file)

    def test_measurement_has_no_calibration_grid(self, raw_measurement, save_raw):
        file = read_mdf(save_raw(raw_measurement))
        for question in (calibration_grid, grid_frames, calibration_snr, calibration_spectra):
            with pytest.raises(MdfError, match="no /calibration"):
                question(file)


class TestFrequencyDependentValues:
    def test_snr_on_the_stored_bins(self, raw_calibration, save_raw):
        snr = calibration_snr(read_mdf(save_raw(raw_calibration)))
        np.testing.assert_array_equal(snr, raw_calibration["/calibration/snr"], strict=True)

    def test_snr_on_the_full_axis_is_cut(self, raw_calibration, save_raw):
        full = np.random.default_rng(7).random((2, 3, 8))
        raw_calibration["/calibration/snr"] = full
        snr = calibration_snr(read_mdf(save_raw(raw_calibration)))
        np.testing.assert_array_equal(snr, full[..., [5, 1, 7, 2]], strict=True)

    def test_file_without_snr(self, raw_calibration, save_raw):
        file = read_mdf(save_raw(without_selection(raw_calibration)))
        assert calibration_snr(file) is None

    def test_transfer_function(self, raw_calibration, save_raw):
        assert transfer_function(read_mdf(save_raw(raw_calibration))) is None
        full = np.random.default_rng(8).random((3, 8)) + 1j
        raw_calibration["/acquisition/receiver/transferFunction"] = full
        function = transfer_function(read_mdf(save_raw(raw_calibration)))
        np.testing.assert_array_equal(function, full[:, [5, 1, 7, 2]], strict=True)


class TestImages:
    def test_axes(self, raw_reconstruction, save_raw):
        data = np.empty((5, 24, 2), np.float32)
        for q, g, s in np.ndindex(data.shape):
            data[q, g, s] = 1000 * q + 500 * s + g
        raw_reconstruction["/reconstruction/data"] = data
        volumes = images(read_mdf(save_raw(raw_reconstruction)))
        assert volumes.shape == (5, 2, 2, 3, 4)
        assert volumes.dtype == np.float32
        for q, s, iz, iy, ix in np.ndindex(volumes.shape):
            assert volumes[q, s, iz, iy, ix] == 1000 * q + 500 * s + (ix + 4 * (iy + 3 * iz))

    def test_grid(self, raw_reconstruction, save_raw):
        grid = reconstruction_grid(read_mdf(save_raw(raw_reconstruction)))
        assert grid == Grid((4, 3, 2), (0.04, 0.03, 0.02))

    @pytest.mark.parametrize(("stored", "given"), [("i2", "f4"), ("i8", "f8"), ("f8", "f8")])
    def test_types(self, raw_reconstruction, save_raw, stored, given):
        raw_reconstruction["/reconstruction/data"] = np.ones((5, 24, 2), stored)
        assert images(read_mdf(save_raw(raw_reconstruction))).dtype == np.dtype(given)

    def test_complex_images(self, raw_reconstruction, save_raw):
        raw_reconstruction["/reconstruction/data"] = np.ones((5, 24, 2), complex)
        file = read_mdf(save_raw(raw_reconstruction))
        with pytest.raises(MdfError, match="/reconstruction/data is complex"):
            images(file)

    def test_size_is_needed(self, raw_reconstruction, save_raw):
        del raw_reconstruction["/reconstruction/size"]
        file = read_mdf(save_raw(raw_reconstruction))
        with pytest.raises(MdfError, match="/reconstruction/size is missing"):
            images(file)

    def test_measurement_has_no_images(self, raw_measurement, save_raw):
        file = read_mdf(save_raw(raw_measurement))
        for question in (images, reconstruction_grid):
            with pytest.raises(MdfError, match="no /reconstruction"):
                question(file)


def test_access_does_not_change_the_file(raw_measurement, save_raw):
    raw_measurement["/acquisition/receiver/dataConversionFactor"] = np.array([[2.0, 5.0]] * 3)
    file = read_mdf(save_raw(raw_measurement))
    before = replace(file.measurement, data=file.measurement.data.copy())
    spectra(file)
    np.testing.assert_array_equal(file.measurement.data, before.data, strict=True)
