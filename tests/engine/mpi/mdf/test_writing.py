"""What written files look like inside, and that writing leaves either a complete file or the old one."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import h5py
import numpy as np
import pytest

from engine.errors import InputError, MdfError
from engine.mpi.grid import Grid
from engine.mpi.mdf import MDF_VERSION, read_mdf, write_mdf
from engine.mpi.mdf import new_files as mdf_factory

# The mandatory datasets of the specification, typed from its tables: {path: (kind, rank)}.
TEXT, INTEGER, REAL, FLAG = "text", "<i8", "<f8", "|i1"
MANDATORY = {
    "version": (TEXT, 0),
    "uuid": (TEXT, 0),
    "time": (TEXT, 0),
    "study/name": (TEXT, 0),
    "study/number": (INTEGER, 0),
    "study/description": (TEXT, 0),
    "study/uuid": (TEXT, 0),
    "experiment/name": (TEXT, 0),
    "experiment/number": (INTEGER, 0),
    "experiment/description": (TEXT, 0),
    "experiment/subject": (TEXT, 0),
    "experiment/uuid": (TEXT, 0),
    "experiment/isSimulation": (FLAG, 0),
    "scanner/name": (TEXT, 0),
    "scanner/manufacturer": (TEXT, 0),
    "scanner/facility": (TEXT, 0),
    "scanner/operator": (TEXT, 0),
    "scanner/topology": (TEXT, 0),
    "acquisition/numAverages": (INTEGER, 0),
    "acquisition/numFrames": (INTEGER, 0),
    "acquisition/numPeriodsPerFrame": (INTEGER, 0),
    "acquisition/startTime": (TEXT, 0),
    "acquisition/drivefield/numChannels": (INTEGER, 0),
    "acquisition/drivefield/baseFrequency": (REAL, 0),
    "acquisition/drivefield/divider": (INTEGER, 2),
    "acquisition/drivefield/cycle": (REAL, 0),
    "acquisition/drivefield/strength": (REAL, 3),
    "acquisition/drivefield/phase": (REAL, 3),
    "acquisition/drivefield/waveform": (TEXT, 2),
    "acquisition/receiver/numChannels": (INTEGER, 0),
    "acquisition/receiver/bandwidth": (REAL, 0),
    "acquisition/receiver/numSamplingPoints": (INTEGER, 0),
    "acquisition/receiver/unit": (TEXT, 0),
}
TRACER = {
    "tracer/name": (TEXT, 1),
    "tracer/batch": (TEXT, 1),
    "tracer/vendor": (TEXT, 1),
    "tracer/solute": (TEXT, 1),
    "tracer/concentration": (REAL, 1),
    "tracer/volume": (REAL, 1),
}
MEASUREMENT = {
    "measurement/data": (None, 4),
    "measurement/isFourierTransformed": (FLAG, 0),
    "measurement/isFastFrameAxis": (FLAG, 0),
    "measurement/isFramePermutation": (FLAG, 0),
    "measurement/isFrequencySelection": (FLAG, 0),
    "measurement/isSparsityTransformed": (FLAG, 0),
    "measurement/isBackgroundCorrected": (FLAG, 0),
    "measurement/isSpectralLeakageCorrected": (FLAG, 0),
    "measurement/isTransferFunctionCorrected": (FLAG, 0),
    "measurement/isBackgroundFrame": (FLAG, 1),
}
CALIBRATION = {
    "measurement/framePermutation": (INTEGER, 1),
    "measurement/frequencySelection": (INTEGER, 1),
    "calibration/method": (TEXT, 0),
    "calibration/size": (INTEGER, 1),
    "calibration/order": (TEXT, 0),
    "calibration/fieldOfView": (REAL, 1),
    "calibration/fieldOfViewCenter": (REAL, 1),
    "calibration/snr": (REAL, 3),
}
RECONSTRUCTION = {
    "reconstruction/data": ("<f4", 3),
    "reconstruction/size": (INTEGER, 1),
    "reconstruction/order": (TEXT, 0),
    "reconstruction/fieldOfView": (REAL, 1),
    "reconstruction/fieldOfViewCenter": (REAL, 1),
}
OPTIONAL = {
    "study/time": (TEXT, 0),
    "acquisition/gradient": (REAL, 4),
    "acquisition/offsetField": (REAL, 3),
    "acquisition/receiver/dataConversionFactor": (REAL, 2),
    "scanner/boreSize": (REAL, 0),
}
GRID = Grid((4, 3, 2), (0.04, 0.03, 0.02), (0.001, 0.0, 0.0))
VERSION_4_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
MDF_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}")


@pytest.fixture
def acquisition():
    """J = 2, C = 3, V = 14."""
    return mdf_factory.new_acquisition(
        bandwidth=700.0,
        n_samples=14,
        n_periods=2,
        n_channels=3,
        drivefield=mdf_factory.new_sine_drive(2.5e6, [102, 96], 0.012, n_periods=2),
        gradient=np.ones((2, 1, 3, 3)),
        offset_field=np.ones((2, 1, 3)),
        data_conversion_factor=np.array([[2.0, 1.0]] * 3),
    )


@pytest.fixture
def measurement(acquisition):
    frames = np.random.default_rng(0).integers(-9, 9, (5, 2, 3, 14)).astype(np.int16)
    tracer = mdf_factory.new_tracer("tracer", concentration=0.5, volume=1e-5)
    scanner = mdf_factory.new_scanner(bore_size=0.12)
    return mdf_factory.new_measurement_file(frames, acquisition=acquisition, tracer=tracer, scanner=scanner)


@pytest.fixture
def calibration(acquisition):
    rng = np.random.default_rng(0)
    foreground = rng.normal(size=(24, 2, 3, 4)) + 1j
    receiver = replace(acquisition.receiver, data_conversion_factor=None)
    return mdf_factory.new_calibration_file(
        foreground,
        foreground[:3],
        grid=GRID,
        acquisition=replace(acquisition, receiver=receiver),
        bins=[5, 1, 7, 2],
        snr=rng.random((2, 3, 4)),
    )


@pytest.fixture
def reconstruction(measurement):
    return mdf_factory.new_reconstruction_file(np.ones((2, 2, 3, 4)), GRID, measurement)


def datasets(path):
    """Return all datasets of a file as {path without leading slash: (kind, rank)}, checking their storage."""
    found = {}

    def visit(name, node):
        assert not node.attrs, f"{name} has attributes, which MDF does not use"
        if isinstance(node, h5py.Dataset):
            layout = node.id.get_create_plist().get_layout()
            assert layout == h5py.h5d.CONTIGUOUS, f"{name} is not contiguous, so it cannot be memory-mapped"
            assert node.maxshape == node.shape
            assert node.dtype.byteorder in "<|=" or h5py.check_string_dtype(node.dtype)
            text = h5py.check_string_dtype(node.dtype)
            if text:
                assert text.encoding == "utf-8"
            found[name] = (TEXT if text else node.dtype.str, node.ndim)

    with h5py.File(path) as handle:
        handle.visititems(visit)
    return found


def assert_complete(path, *tables):
    found = datasets(path)
    for expected in tables:
        for name, (kind, rank) in expected.items():
            assert name in found, f"{name} is missing"
            assert found[name] == (kind or found[name][0], rank), name
    allowed = set().union(OPTIONAL, *tables)
    assert set(found) <= allowed, f"unexpected names {set(found) - allowed}"


def test_measurement_file_is_complete(measurement, tmp_path):
    write_mdf(tmp_path / "m.mdf", measurement)
    assert_complete(tmp_path / "m.mdf", MANDATORY, TRACER, MEASUREMENT)
    with h5py.File(tmp_path / "m.mdf") as handle:
        assert handle["measurement/data"].dtype == np.dtype("<i2")
        flags = [name for name, (kind, rank) in MEASUREMENT.items() if (kind, rank) == (FLAG, 0)]
        assert len(flags) == 8
        assert [handle[name][()] for name in flags] == [0] * 8


def test_calibration_file_is_complete(calibration, tmp_path):
    write_mdf(tmp_path / "c.mdf", calibration)
    assert_complete(tmp_path / "c.mdf", MANDATORY, MEASUREMENT, CALIBRATION)
    with h5py.File(tmp_path / "c.mdf") as handle:
        data = handle["measurement/data"]
        assert data.shape == (2, 3, 4, 27)
        assert data.dtype == np.dtype("<c8")
        assert data.id.get_type().get_member_name(0) == b"r"
        assert handle["calibration/order"].asstr()[()] == "xyz"
        assert handle["calibration/size"][()].tolist() == [4, 3, 2]
        assert handle["measurement/frequencySelection"][()].tolist() == [6, 2, 8, 3]
        assert sorted(handle["measurement/framePermutation"][()]) == list(range(1, 28))
        assert handle["measurement/isBackgroundFrame"][()].tolist() == [0] * 24 + [1] * 3
        for name in ("isFourierTransformed", "isFastFrameAxis", "isFramePermutation", "isFrequencySelection"):
            assert handle[f"measurement/{name}"][()] == 1
        assert handle["acquisition/numFrames"][()] == 27


def test_reconstruction_file_is_complete(reconstruction, tmp_path):
    write_mdf(tmp_path / "r.mdf", reconstruction)
    assert_complete(tmp_path / "r.mdf", MANDATORY, TRACER, RECONSTRUCTION)
    with h5py.File(tmp_path / "r.mdf") as handle:
        assert handle["reconstruction/data"].shape == (2, 24, 1)


def test_identifiers_times_and_version(calibration, tmp_path):
    write_mdf(tmp_path / "c.mdf", replace(calibration, version="2.0.1"))
    with h5py.File(tmp_path / "c.mdf") as handle:
        texts = {
            name: handle[name].asstr()[()] for name in ("version", "uuid", "time", "acquisition/startTime")
        }
        assert handle["version"].shape == ()
    assert texts["version"] == MDF_VERSION == "2.1.0"
    assert VERSION_4_UUID.fullmatch(texts["uuid"])
    assert MDF_TIME.fullmatch(texts["time"])
    assert MDF_TIME.fullmatch(texts["acquisition/startTime"])
    age = datetime.now(UTC).replace(tzinfo=None) - datetime.fromisoformat(texts["time"])
    assert timedelta(0) <= age < timedelta(hours=1)  # UTC, not local time


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2024, 5, 31, 12, 0), "2024-05-31T12:00:00.000"),
        (datetime(2024, 5, 31, 12, 0, 1, 987654), "2024-05-31T12:00:01.987"),
        (datetime(2024, 5, 31, 14, 0, tzinfo=timezone(timedelta(hours=2))), "2024-05-31T12:00:00.000"),
        (None, ""),
    ],
)
def test_times_are_written_in_utc_to_the_millisecond(measurement, tmp_path, moment, text):
    write_mdf(tmp_path / "m.mdf", replace(measurement, time=moment))
    with h5py.File(tmp_path / "m.mdf") as handle:
        assert handle["time"].asstr()[()] == text


def test_big_endian_data_are_written_little_endian(measurement, tmp_path):
    swapped = measurement.measurement.data.astype(">i2")
    write_mdf(
        tmp_path / "m.mdf", replace(measurement, measurement=replace(measurement.measurement, data=swapped))
    )
    with h5py.File(tmp_path / "m.mdf") as handle:
        assert handle["measurement/data"].dtype == np.dtype("<i2")
        np.testing.assert_array_equal(handle["measurement/data"][()], measurement.measurement.data)


def test_invalid_content_is_refused_and_the_old_file_stays(measurement, tmp_path):
    path = tmp_path / "m.mdf"
    write_mdf(path, measurement)
    before = path.read_bytes()
    broken = replace(measurement.measurement, is_background_frame=np.ones(5, bool))
    with pytest.raises(MdfError, match=r"m\.mdf: /measurement/isBackgroundFrame .*5"):
        write_mdf(path, replace(measurement, measurement=broken))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_failure_half_way_leaves_nothing(measurement, tmp_path):
    # Text with a NUL passes the rules of the format but cannot be stored in HDF5.
    study = replace(measurement.study, name="bad\0name")
    with pytest.raises(ValueError, match="NULL"):
        write_mdf(tmp_path / "m.mdf", replace(measurement, study=study))
    assert list(tmp_path.iterdir()) == []


def test_missing_folder(measurement, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        write_mdf(tmp_path / "none" / "m.mdf", measurement)


def test_list_without_its_flag_is_refused(calibration, tmp_path):
    inconsistent = replace(calibration.measurement, is_frame_permutation=False)
    with pytest.raises(MdfError, match=r"framePermutation .*isFramePermutation"):
        write_mdf(tmp_path / "c.mdf", replace(calibration, measurement=inconsistent))


def test_repeated_tracers_keep_their_axis(measurement, tmp_path):
    two = mdf_factory.new_tracer("one", concentration=0.5, volume=1e-5)
    two = replace(
        two,
        **{name: np.repeat(getattr(two, name), 2) for name in ("name", "batch", "vendor", "solute")},
        concentration=np.array([0.5, 0.25]),
        volume=np.array([1e-5, 2e-5]),
        injection_time=(datetime(2024, 5, 31), datetime(2024, 6, 1, 12)),
    )
    write_mdf(tmp_path / "m.mdf", replace(measurement, tracer=two))
    with h5py.File(tmp_path / "m.mdf") as handle:
        times = handle["tracer/injectionTime"].asstr()[()].tolist()
    assert times == ["2024-05-31T00:00:00.000", "2024-06-01T12:00:00.000"]
    assert read_mdf(tmp_path / "m.mdf").tracer.injection_time == two.injection_time
