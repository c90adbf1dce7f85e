"""Reading hand-built files: axis orders, encodings, and the deviations that real files are known for."""

from datetime import datetime

import h5py
import numpy as np
import pytest

from engine.mpi.mdf import MdfWarning, read_mdf

MOMENT = datetime(2024, 5, 31, 12, 34, 56, 789000)


def test_measurement_is_read_as_stored(raw_measurement, save_raw):
    file = read_mdf(save_raw(raw_measurement))
    np.testing.assert_array_equal(file.measurement.data, raw_measurement["/measurement/data"], strict=True)
    assert file.measurement.is_background_frame.tolist() == [False, True, False, False, False]
    assert not file.measurement.is_fourier_transformed
    assert file.calibration is None
    assert file.reconstruction is None
    assert file.tracer is None
    assert file.time == MOMENT
    assert file.study.description == "größer"
    assert file.study.number == 7
    assert file.experiment.description == ""
    assert file.acquisition.drivefield.divider.tolist() == [[102], [96]]
    assert file.acquisition.receiver.bandwidth == 700.0


def test_absent_optional_values_are_none_not_invented(raw_measurement, save_raw):
    file = read_mdf(save_raw(raw_measurement))
    assert file.study.time is None
    assert file.scanner.bore_size is None
    assert file.acquisition.gradient is None
    assert file.acquisition.offset_field is None
    assert file.acquisition.receiver.data_conversion_factor is None
    assert file.acquisition.receiver.transfer_function is None


def test_calibration_is_read_as_stored(raw_calibration, save_raw):
    file = read_mdf(save_raw(raw_calibration))
    measurement, calibration = file.measurement, file.calibration
    np.testing.assert_array_equal(measurement.data, raw_calibration["/measurement/data"], strict=True)
    for path, values in {
        "/measurement/framePermutation": measurement.frame_permutation,
        "/measurement/frequencySelection": measurement.frequency_selection,
        "/calibration/size": calibration.size,
        "/calibration/fieldOfView": calibration.field_of_view,
        "/calibration/fieldOfViewCenter": calibration.field_of_view_center,
        "/calibration/snr": calibration.snr,
    }.items():
        np.testing.assert_array_equal(values, raw_calibration[path], strict=True)
    assert calibration.method == "robot"
    assert calibration.is_meandering_grid is None


def test_reconstruction_is_read_as_stored(raw_reconstruction, save_raw):
    raw_reconstruction["/reconstruction/isOverscanRegion"] = np.arange(24, dtype=np.int8) % 2
    reconstruction = read_mdf(save_raw(raw_reconstruction)).reconstruction
    np.testing.assert_array_equal(
        reconstruction.data, raw_reconstruction["/reconstruction/data"], strict=True
    )
    assert reconstruction.is_overscan_region.tolist() == [False, True] * 12


def test_unknown_names_are_ignored(raw_measurement, save_raw):
    raw_measurement["/_private"] = np.zeros(3)
    raw_measurement["/measurement/_monitoring/temperature"] = np.zeros(3)
    raw_measurement["/acquisition/receiver/transferFunctionFileName"] = "somewhere"
    raw_measurement["/reconstruction/_parameters/iterations"] = np.int64(3)
    file = read_mdf(save_raw(raw_measurement))
    assert file.reconstruction is None


@pytest.mark.parametrize("version", ["2", "2.0.0", "2.0.1", "2.1.0", "2.7.3"])
def test_any_version_2_is_read_without_gating(raw_measurement, save_raw, version):
    raw_measurement["/version"] = version
    assert read_mdf(save_raw(raw_measurement)).version == version


def test_missing_sparsity_flag_means_uncompressed(raw_measurement, save_raw):
    del raw_measurement["/measurement/isSparsityTransformed"]
    assert read_mdf(save_raw(raw_measurement)).measurement.is_sparsity_transformed is False


def test_missing_order_means_x_fastest(raw_calibration, save_raw):
    del raw_calibration["/calibration/order"]
    assert read_mdf(save_raw(raw_calibration)).calibration.order == "xyz"


def test_misspelt_permutation_flag_is_understood(raw_calibration, save_raw):
    raw_calibration["/measurement/isFramePermution"] = raw_calibration.pop("/measurement/isFramePermutation")
    assert read_mdf(save_raw(raw_calibration)).measurement.is_frame_permutation is True


def test_draft_name_of_the_fast_frame_flag_is_understood(raw_calibration, save_raw):
    raw_calibration["/measurement/isTransposed"] = raw_calibration.pop("/measurement/isFastFrameAxis")
    assert read_mdf(save_raw(raw_calibration)).measurement.is_fast_frame_axis is True


def test_missing_fast_frame_flag_is_assumed_with_a_warning(raw_measurement, save_raw):
    del raw_measurement["/measurement/isFastFrameAxis"]
    path = save_raw(raw_measurement)
    with pytest.warns(MdfWarning, match="isFastFrameAxis .*0"):
        assert read_mdf(path).measurement.is_fast_frame_axis is False


def test_number_of_periods_has_an_old_name_and_defaults_to_one(raw_measurement, save_raw):
    raw_measurement["/acquisition/numPeriods"] = raw_measurement.pop("/acquisition/numPeriodsPerFrame")
    assert read_mdf(save_raw(raw_measurement)).acquisition.num_periods_per_frame == 2
    del raw_measurement["/acquisition/numPeriods"]
    raw_measurement["/measurement/data"] = raw_measurement["/measurement/data"][:, :1]
    for name in ("strength", "phase"):
        raw_measurement[f"/acquisition/drivefield/{name}"] = np.zeros((1, 2, 1))
    assert read_mdf(save_raw(raw_measurement)).acquisition.num_periods_per_frame == 1


def test_empty_time_is_unknown_with_a_warning(raw_measurement, save_raw):
    raw_measurement["/acquisition/startTime"] = ""
    path = save_raw(raw_measurement)
    with pytest.warns(MdfWarning, match="/acquisition/startTime is empty"):
        assert read_mdf(path).acquisition.start_time is None


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-05-31T12:34:56.789", MOMENT),
        ("2024-05-31 12:34:56.789", MOMENT),
        ("2024-05-31T12:34:56.789000Z", MOMENT),
        ("2024-05-31T14:34:56.789+02:00", MOMENT),
        ("2024-05-31T12:34:56", MOMENT.replace(microsecond=0)),
        ("20240531T123456", MOMENT.replace(microsecond=0)),
    ],
)
def test_iso_times_become_utc(raw_measurement, save_raw, text, moment):
    raw_measurement["/time"] = text
    assert read_mdf(save_raw(raw_measurement)).time == moment


def test_malformed_uuid_is_kept_with_a_warning(raw_measurement, save_raw):
    raw_measurement["/study/uuid"] = "study no. 5"
    path = save_raw(raw_measurement)
    with pytest.warns(MdfWarning, match="/study/uuid .*'study no. 5'"):
        assert read_mdf(path).study.uuid == "study no. 5"


@pytest.mark.parametrize("factors", [[[1.0, 0.0]] * 3, None])
def test_spectra_without_effective_conversion_do_not_warn(raw_calibration, save_raw, factors):
    if factors is not None:
        raw_calibration["/acquisition/receiver/dataConversionFactor"] = np.array(factors)
    read_mdf(save_raw(raw_calibration))


def test_spectra_with_a_conversion_factor_warn(raw_calibration, save_raw):
    raw_calibration["/acquisition/receiver/dataConversionFactor"] = np.array([[1.0, 0.0]] * 2 + [[2.0, 0.0]])
    path = save_raw(raw_calibration)
    with pytest.warns(MdfWarning, match="dataConversionFactor"):
        read_mdf(path)


class TestEncodings:
    """Scalars, flags, texts and numbers in the encodings that other languages write."""

    @pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
    def test_one_value_in_any_rank(self, raw_measurement, save_raw, shape):
        raw_measurement["/acquisition/numFrames"] = np.full(shape, 5, np.int32)
        raw_measurement["/acquisition/receiver/bandwidth"] = np.full(shape, 700, np.float32)
        raw_measurement["/measurement/isFastFrameAxis"] = np.full(shape, 0, np.int8)
        raw_measurement["/scanner/topology"] = np.full(shape, "FFP", dtype=object)
        file = read_mdf(save_raw(raw_measurement))
        assert file.acquisition.num_frames == 5
        assert file.acquisition.receiver.bandwidth == 700.0
        assert file.scanner.topology == "FFP"

    @pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint32, np.bool_])
    def test_flags_of_any_integer_type_and_enumerations(self, raw_calibration, save_raw, dtype):
        raw_calibration["/measurement/isFastFrameAxis"] = dtype(1)
        mask = raw_calibration["/measurement/isBackgroundFrame"]
        raw_calibration["/measurement/isBackgroundFrame"] = mask.astype(dtype)
        measurement = read_mdf(save_raw(raw_calibration)).measurement
        assert measurement.is_fast_frame_axis is True
        np.testing.assert_array_equal(measurement.is_background_frame, mask == 1, strict=True)

    def test_flag_as_hdf5_bitfield(self, raw_measurement, save_raw):
        del raw_measurement["/measurement/isSparsityTransformed"]
        path = save_raw(raw_measurement)
        with h5py.File(path, "r+") as handle:
            space = h5py.h5s.create(h5py.h5s.SCALAR)
            name = b"isSparsityTransformed"
            h5py.h5d.create(handle["measurement"].id, name, h5py.h5t.STD_B8LE, space)
        assert read_mdf(path).measurement.is_sparsity_transformed is False

    @pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
    @pytest.mark.parametrize("length", [None, 12])
    def test_texts_of_fixed_and_variable_length(self, raw_measurement, save_raw, encoding, length):
        del raw_measurement["/scanner/name"]
        path = save_raw(raw_measurement)
        with h5py.File(path, "r+") as handle:
            dtype = h5py.string_dtype(encoding, length)
            handle.create_dataset("/scanner/name", data="the scanner", dtype=dtype)
        assert read_mdf(path).scanner.name == "the scanner"

    def test_text_of_fixed_length_ends_at_its_first_nul(self, raw_measurement, save_raw):
        raw_measurement["/scanner/name"] = np.bytes_(b"scanner\0garbage")
        assert read_mdf(save_raw(raw_measurement)).scanner.name == "scanner"

    def test_text_in_a_null_dataspace_is_empty(self, raw_measurement, save_raw):
        raw_measurement["/scanner/operator"] = h5py.Empty("S1")
        assert read_mdf(save_raw(raw_measurement)).scanner.operator == ""

    def test_integers_stored_as_floats(self, raw_measurement, save_raw):
        raw_measurement["/acquisition/numFrames"] = np.float64(5)
        number = read_mdf(save_raw(raw_measurement)).acquisition.num_frames
        assert number == 5
        assert isinstance(number, int)

    @pytest.mark.parametrize("order", [("r", "i"), ("i", "r")])
    @pytest.mark.parametrize("base", ["<i2", "<i8", "<f4", ">f8"])
    def test_complex_compounds_keep_their_values(self, raw_calibration, save_raw, order, base):
        values = np.round(100 * raw_calibration["/measurement/data"])
        compound = np.empty(values.shape, [(name, base) for name in order])
        compound["r"], compound["i"] = values.real, values.imag
        raw_calibration["/measurement/data"] = compound
        data = read_mdf(save_raw(raw_calibration)).measurement.data
        if data.dtype.names is None:
            np.testing.assert_array_equal(data, values)
        else:
            assert data.dtype.names == order
            np.testing.assert_array_equal(data["r"], values.real)
            np.testing.assert_array_equal(data["i"], values.imag)

    def test_big_endian_data_become_native(self, raw_measurement, save_raw):
        counts = raw_measurement["/measurement/data"]
        raw_measurement["/measurement/data"] = counts.astype(">i2")
        data = read_mdf(save_raw(raw_measurement)).measurement.data
        np.testing.assert_array_equal(data, counts, strict=True)

    def test_transfer_function_of_single_precision(self, raw_measurement, save_raw):
        function = np.full((3, 8), 2 - 1j, np.complex64)
        raw_measurement["/acquisition/receiver/transferFunction"] = function
        read = read_mdf(save_raw(raw_measurement)).acquisition.receiver.transfer_function
        np.testing.assert_array_equal(read, function.astype(np.complex128), strict=True)

    def test_transfer_function_of_swapped_integer_compounds(self, raw_measurement, save_raw):
        function = np.zeros((3, 8), [("i", "<i4"), ("r", "<i4")])
        function["r"], function["i"] = 2, -1
        raw_measurement["/acquisition/receiver/transferFunction"] = function
        read = read_mdf(save_raw(raw_measurement)).acquisition.receiver.transfer_function
        np.testing.assert_array_equal(read, np.full((3, 8), 2 - 1j), strict=True)


class TestLayouts:
    """Shapes that differ from the specification in known ways."""

    def test_dropped_leading_axes_of_the_data(self, raw_measurement, save_raw):
        data = raw_measurement["/measurement/data"][:1]
        raw_measurement["/measurement/data"] = data[0]
        raw_measurement["/acquisition/numFrames"] = np.int64(1)
        raw_measurement["/measurement/isBackgroundFrame"] = np.int8(0)
        measurement = read_mdf(save_raw(raw_measurement)).measurement
        np.testing.assert_array_equal(measurement.data, data, strict=True)
        assert measurement.is_background_frame.tolist() == [False]

    def test_transposed_divider(self, raw_measurement, save_raw):
        raw_measurement["/acquisition/drivefield/divider"] = np.array([[102, 96]])
        drivefield = read_mdf(save_raw(raw_measurement)).acquisition.drivefield
        assert drivefield.divider.tolist() == [[102], [96]]

    def test_one_waveform_for_all_channels(self, raw_measurement, save_raw):
        raw_measurement["/acquisition/drivefield/waveform"] = "sine"
        drivefield = read_mdf(save_raw(raw_measurement)).acquisition.drivefield
        assert drivefield.waveform.tolist() == [["sine"], ["sine"]]

    @pytest.mark.parametrize(
        "stored",
        [
            np.array([1.0, 1.0, -2.0]),
            np.diag([1.0, 1.0, -2.0]),
            np.stack([np.diag([1.0, 1.0, -2.0])] * 2),
            np.stack([np.diag([1.0, 1.0, -2.0])] * 2)[:, np.newaxis],
        ],
    )
    def test_gradient(self, raw_measurement, save_raw, stored):
        raw_measurement["/acquisition/gradient"] = stored
        gradient = read_mdf(save_raw(raw_measurement)).acquisition.gradient
        expected = np.zeros((2, 1, 3, 3))
        expected[..., [0, 1, 2], [0, 1, 2]] = [1.0, 1.0, -2.0]
        np.testing.assert_array_equal(gradient, expected, strict=True)

    def test_gradient_per_period_is_not_mixed_up(self, raw_measurement, save_raw):
        gradient = np.random.default_rng(4).normal(size=(2, 3, 3))
        raw_measurement["/acquisition/gradient"] = gradient
        read = read_mdf(save_raw(raw_measurement)).acquisition.gradient
        np.testing.assert_array_equal(read, gradient.reshape(2, 1, 3, 3), strict=True)

    def test_one_offset_field_for_all_periods(self, raw_measurement, save_raw):
        raw_measurement["/acquisition/offsetField"] = np.array([0.1, 0.2, 0.3])
        offset = read_mdf(save_raw(raw_measurement)).acquisition.offset_field
        np.testing.assert_array_equal(offset, np.full((2, 1, 3), [0.1, 0.2, 0.3]), strict=True)

    def test_scalar_tracer_values_stand_for_all_tracers(self, raw_measurement, save_raw):
        raw_measurement |= {
            "/tracer/name": np.array(["one", "two"], dtype=object),
            "/tracer/batch": "n.a.",
            "/tracer/vendor": "",
            "/tracer/solute": np.array(["Fe"], dtype=object),
            "/tracer/concentration": np.array([0.5, 0.25]),
            "/tracer/volume": np.float64(1e-5),
            "/tracer/injectionTime": "2024-05-31T12:34:56.789",
        }
        tracer = read_mdf(save_raw(raw_measurement)).tracer
        assert tracer.name.tolist() == ["one", "two"]
        assert tracer.batch.tolist() == ["n.a.", "n.a."]
        assert tracer.vendor.tolist() == ["", ""]
        assert tracer.solute.tolist() == ["Fe", "Fe"]
        assert tracer.volume.tolist() == [1e-5, 1e-5]
        assert tracer.injection_time == (MOMENT, MOMENT)

    def test_lists_without_their_flag_are_left_out(self, raw_measurement, save_raw):
        raw_measurement["/measurement/framePermutation"] = np.arange(1, 6)
        assert read_mdf(save_raw(raw_measurement)).measurement.frame_permutation is None

    def test_snr_and_transfer_function_on_the_full_axis(self, raw_calibration, save_raw):
        raw_calibration["/calibration/snr"] = np.ones((2, 3, 8))
        raw_calibration["/acquisition/receiver/transferFunction"] = np.ones((3, 8), complex)
        file = read_mdf(save_raw(raw_calibration))
        assert file.calibration.snr.shape == (2, 3, 8)
        assert file.acquisition.receiver.transfer_function.shape == (3, 8)
