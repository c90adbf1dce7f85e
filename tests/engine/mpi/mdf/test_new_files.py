"""Files made from arrays say what the arrays were meant to say."""

import numpy as np
import pytest

from engine.errors import MdfError
from engine.mpi.grid import Grid
from engine.mpi.mdf import new_files as mdf_factory
from engine.mpi.mdf.grids import calibration_grid, calibration_spectra, images, reconstruction_grid
from engine.mpi.mdf.spectra import background_mask, bins, spectra

GRID = Grid((4, 3, 2), (0.04, 0.03, 0.02), (0.001, 0.0, -0.002))
# Data are stored in single precision: 2^-24 relative rounding of values of the order of one.
SINGLE_PRECISION = 1e-6


@pytest.fixture
def acquisition():
    """J = 2, C = 3, V = 14."""
    drivefield = mdf_factory.new_sine_drive(2.5e6, [102, 96], [0.012, 0.011], n_periods=2)
    return mdf_factory.new_acquisition(
        bandwidth=700.0, n_samples=14, n_periods=2, n_channels=3, drivefield=drivefield
    )


def complex_frames(n_frames, n_bins, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_frames, 2, 3, n_bins)) + 1j * rng.normal(size=(n_frames, 2, 3, n_bins))


class TestCalibration:
    def test_foreground_and_background_come_back(self, acquisition):
        foreground, background = complex_frames(24, 4), complex_frames(3, 4, seed=1)
        file = mdf_factory.new_calibration_file(
            foreground, background, grid=GRID, acquisition=acquisition, bins=[5, 1, 7, 2]
        )
        np.testing.assert_allclose(calibration_spectra(file), foreground, atol=SINGLE_PRECISION)
        np.testing.assert_allclose(spectra(file)[background_mask(file)], background, atol=SINGLE_PRECISION)
        assert bins(file).tolist() == [5, 1, 7, 2]
        assert calibration_grid(file) == GRID
        assert file.acquisition.num_frames == 27
        assert acquisition.num_frames == 1

    def test_full_axis_without_background(self, acquisition):
        file = mdf_factory.new_calibration_file(complex_frames(24, 8), grid=GRID, acquisition=acquisition)
        assert not background_mask(file).any()
        assert bins(file).tolist() == list(range(8))

    def test_other_number_of_points(self, acquisition):
        with pytest.raises(MdfError, match=r"/calibration/size .*23"):
            mdf_factory.new_calibration_file(complex_frames(23, 8), grid=GRID, acquisition=acquisition)

    def test_background_of_other_bins(self, acquisition):
        with pytest.raises(MdfError, match=r"background frames .*\(2, 3, 5\)"):
            mdf_factory.new_calibration_file(
                complex_frames(24, 8), complex_frames(3, 5), grid=GRID, acquisition=acquisition
            )

    def test_values_beyond_single_precision(self, acquisition):
        with pytest.raises(MdfError, match=r"/measurement/data is .*inf"):
            mdf_factory.new_calibration_file(1e39 * complex_frames(24, 8), grid=GRID, acquisition=acquisition)

    def test_identifiers_are_fresh(self, acquisition):
        files = [
            mdf_factory.new_calibration_file(complex_frames(24, 8), grid=GRID, acquisition=acquisition)
            for _ in range(2)
        ]
        identifiers = {node.uuid for file in files for node in (file, file.study, file.experiment)}
        assert len(identifiers) == 6


class TestMeasurement:
    def test_real_frames_are_time_signals(self, acquisition):
        signals = np.random.default_rng(0).integers(-9, 9, (5, 2, 3, 14)).astype(np.int16)
        mask = np.array([True, False, False, True, False])
        file = mdf_factory.new_measurement_file(signals, acquisition=acquisition, background_mask=mask)
        np.testing.assert_array_equal(file.measurement.data, signals, strict=True)
        np.testing.assert_array_equal(background_mask(file), mask, strict=True)
        np.testing.assert_allclose(spectra(file)[..., 0], signals.sum(axis=-1))

    def test_complex_frames_are_spectra(self, acquisition):
        frames = complex_frames(5, 2)
        file = mdf_factory.new_measurement_file(frames, acquisition=acquisition, bins=np.array([6, 3]))
        np.testing.assert_array_equal(spectra(file), frames, strict=True)
        assert bins(file).tolist() == [6, 3]
        assert not background_mask(file).any()

    def test_other_number_of_samples(self, acquisition):
        with pytest.raises(MdfError, match="V=14"):
            mdf_factory.new_measurement_file(np.zeros((5, 2, 3, 13)), acquisition=acquisition)

    def test_bins_of_time_signals(self, acquisition):
        with pytest.raises(MdfError, match=r"isFrequencySelection .*isFourierTransformed"):
            mdf_factory.new_measurement_file(np.zeros((5, 2, 3, 14)), acquisition=acquisition, bins=[1])


class TestReconstruction:
    def test_images_come_back_with_the_metadata_of_their_source(self, acquisition):
        source = mdf_factory.new_measurement_file(
            complex_frames(5, 8),
            acquisition=acquisition,
            tracer=mdf_factory.new_tracer("tracer", concentration=0.5, volume=1e-5),
        )
        volumes = np.random.default_rng(0).random((5, 2, 3, 4))
        file = mdf_factory.new_reconstruction_file(volumes, GRID, source)
        np.testing.assert_array_equal(images(file)[:, 0], volumes.astype(np.float32), strict=True)
        assert file.reconstruction.data.shape == (5, 24, 1)
        # voxel (ix, iy, iz) = (3, 1, 0) is number 3 + 4 * 1 with x fastest
        assert file.reconstruction.data[2, 7, 0] == np.float32(volumes[2, 0, 1, 3])
        assert reconstruction_grid(file) == GRID
        assert file.measurement is None
        assert file.study is source.study
        assert file.tracer is source.tracer
        assert file.uuid != source.uuid

    def test_images_of_another_grid(self, acquisition):
        source = mdf_factory.new_measurement_file(complex_frames(1, 8), acquisition=acquisition)
        with pytest.raises(MdfError, match=r"\(1, 4, 3, 2\); .*2, 3, 4"):
            mdf_factory.new_reconstruction_file(np.zeros((1, 4, 3, 2)), GRID, source)

    def test_images_that_are_not_finite(self, acquisition):
        source = mdf_factory.new_measurement_file(complex_frames(1, 8), acquisition=acquisition)
        volumes = np.zeros((1, 2, 3, 4))
        volumes[0, 0, 2, 1] = np.nan
        with pytest.raises(MdfError, match=r"/reconstruction/data .*\(0, 9, 0\)"):
            mdf_factory.new_reconstruction_file(volumes, GRID, source)


class TestDriveField:
    def test_period_is_the_least_common_multiple(self):
        drivefield = mdf_factory.new_sine_drive(2.5e6, [102, 96], [0.012, 0.011], n_periods=3, phase=0.5)
        assert drivefield.cycle == pytest.approx(1632 / 2.5e6)
        assert drivefield.num_channels == 2
        assert drivefield.strength[:, :, 0].tolist() == [[0.012, 0.011]] * 3
        assert drivefield.phase.tolist() == [[[0.5], [0.5]]] * 3
        assert drivefield.waveform.tolist() == [["sine"], ["sine"]]

    def test_several_frequencies_of_one_channel(self):
        drivefield = mdf_factory.new_sine_drive(26e3, [[1, 260]], [[0.009, 0.004]])
        assert drivefield.cycle == pytest.approx(0.01)
        assert drivefield.strength.tolist() == [[[0.009, 0.004]]]

    @pytest.mark.parametrize(("frequency", "divider"), [(0.0, [1]), (1.0, [0]), (1.0, [-1]), (1.0, 3)])
    def test_impossible_frequencies(self, frequency, divider):
        with pytest.raises(MdfError, match="base frequency"):
            mdf_factory.new_sine_drive(frequency, divider, 0.01)
