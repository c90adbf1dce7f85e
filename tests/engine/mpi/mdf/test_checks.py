"""Every situation that deserves a clear error: one line that names the file, the place and the remedy."""

import re

import h5py
import numpy as np
import pytest

from engine.errors import MdfError
from engine.mpi.mdf import read_mdf


def refusal(path):
    """Return the error message of reading a file, which must be one complete line."""
    with pytest.raises(MdfError) as caught:
        read_mdf(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert "expected" in message
    assert message.count(";") >= 2  # what was got; what was expected; what to do
    return message


def data_with(value, index):
    """Return a change that puts one value into the data."""

    def change(content):
        content["/measurement/data"][index] = value

    return change


def replaced(path, value):
    """Return a change that replaces (or adds) one dataset."""

    def change(content):
        content[path] = value

    return change


def without(*paths):
    """Return a change that removes datasets."""

    def change(content):
        for path in paths:
            del content[path]

    return change


def without_group(group):
    """Return a change that removes a group."""

    def change(content):
        for path in [path for path in content if path.startswith(f"{group}/")]:
            del content[path]

    return change


MEASUREMENT_ERRORS = {
    "no version": (without("/version"), "/version is missing"),
    "unreadable version": (replaced("/version", "two"), "/version is 'two'"),
    "version 1": (replaced("/version", "1.0.5"), "/version is 1.0.5; expected MDF 2.x"),
    "endless version": (replaced("/version", "9" * 5000), "/version is 9999"),
    "version 3": (replaced("/version", "3.0.0"), "/version is 3.0.0; expected MDF 2.x"),
    "version is a number": (replaced("/version", 2.1), "/version has the type float64; expected text"),
    "no study": (without_group("/study"), "/study is missing"),
    "no experiment": (without_group("/experiment"), "/experiment is missing"),
    "no scanner": (without_group("/scanner"), "/scanner is missing"),
    "no acquisition": (without_group("/acquisition"), "/acquisition is missing"),
    "no drivefield": (without_group("/acquisition/drivefield"), "/acquisition/drivefield is missing"),
    "no receiver": (without_group("/acquisition/receiver"), "/acquisition/receiver is missing"),
    "no mandatory field": (without("/study/number"), "/study/number is missing"),
    "no data": (without("/measurement/data"), "/measurement/data is missing"),
    "no flag": (without("/measurement/isFourierTransformed"), "isFourierTransformed is missing"),
    "no mask": (without("/measurement/isBackgroundFrame"), "isBackgroundFrame is missing"),
    "no content": (without_group("/measurement"), "no /measurement, /calibration or /reconstruction"),
    "group for dataset": (
        lambda content: content.update({"/study/name/x": content.pop("/study/name")}),
        "/study/name is no dataset",
    ),
    "dataset for group": (replaced("/tracer", np.zeros(3)), "/tracer is no group"),
    "five axes": (replaced("/measurement/data", np.zeros((1, 5, 2, 3, 14))), "has shape (1, 5, 2, 3, 14)"),
    "other N": (replaced("/measurement/data", np.zeros((4, 2, 3, 14))), "expected (N=5, J=2, C=3, V=14)"),
    "other J": (replaced("/measurement/data", np.zeros((5, 3, 3, 14))), "expected (N=5, J=2, C=3, V=14)"),
    "other C": (replaced("/measurement/data", np.zeros((5, 2, 2, 14))), "expected (N=5, J=2, C=3, V=14)"),
    "other V": (replaced("/measurement/data", np.zeros((5, 2, 3, 13))), "expected (N=5, J=2, C=3, V=14)"),
    "fast frame axis with frames first": (
        replaced("/measurement/isFastFrameAxis", np.int8(1)),
        "expected (J=2, C=3, V=14, N=5)",
    ),
    "complex time signal": (
        replaced("/measurement/data", np.zeros((5, 2, 3, 14), complex)),
        "complex type complex128 while isFourierTransformed is 0",
    ),
    "text data": (replaced("/measurement/data", "none"), "/measurement/data holds text"),
    "unsigned data": (
        replaced("/measurement/data", np.zeros((5, 2, 3, 14), np.uint16)),
        "/measurement/data has the type uint16",
    ),
    "half precision": (
        replaced("/measurement/data", np.zeros((5, 2, 3, 14), np.float16)),
        "/measurement/data has the type float16",
    ),
    "flag of 2": (replaced("/measurement/isFastFrameAxis", np.int8(2)), "isFastFrameAxis holds 2"),
    "flag of -1": (replaced("/experiment/isSimulation", np.int8(-1)), "/experiment/isSimulation holds -1"),
    "flag as float": (replaced("/experiment/isSimulation", 1.0), "isSimulation has the type float64"),
    "flag as text": (replaced("/experiment/isSimulation", "yes"), "/experiment/isSimulation holds text"),
    "mask of 2": (
        replaced("/measurement/isBackgroundFrame", np.array([0, 2, 0, 0, 0], np.int8)),
        "isBackgroundFrame holds 2",
    ),
    "short mask": (
        replaced("/measurement/isBackgroundFrame", np.zeros(4, np.int8)),
        "isBackgroundFrame has shape (4,); expected (N=5,)",
    ),
    "background only": (
        replaced("/measurement/isBackgroundFrame", np.ones(5, np.int8)),
        "isBackgroundFrame marks all 5 frames",
    ),
    "permutation missing": (
        replaced("/measurement/isFramePermutation", np.int8(1)),
        "framePermutation is missing while isFramePermutation is 1",
    ),
    "selection of time signals": (
        replaced("/measurement/isFrequencySelection", np.int8(1)),
        "isFrequencySelection is 1 with isFourierTransformed 0",
    ),
    "sparse": (replaced("/measurement/isSparsityTransformed", np.int8(1)), "not supported"),
    "two values": (replaced("/acquisition/numFrames", np.array([5, 5])), "numFrames has shape (2,)"),
    "broken count": (replaced("/acquisition/numFrames", 4.5), "/acquisition/numFrames holds 4.5"),
    "count is NaN": (replaced("/acquisition/numFrames", np.nan), "/acquisition/numFrames holds nan"),
    "count is an enumeration": (replaced("/study/number", np.True_), "/study/number has the type bool"),
    "no frames": (replaced("/acquisition/numFrames", np.int64(0)), "/acquisition/numFrames is 0"),
    "no samples": (
        replaced("/acquisition/receiver/numSamplingPoints", np.int64(0)),
        "/acquisition/receiver/numSamplingPoints is 0",
    ),
    "no bandwidth": (replaced("/acquisition/receiver/bandwidth", 0.0), "receiver/bandwidth is 0.0"),
    "negative bandwidth": (replaced("/acquisition/receiver/bandwidth", -1.0), "receiver/bandwidth is -1.0"),
    "bandwidth is NaN": (replaced("/acquisition/receiver/bandwidth", np.nan), "receiver/bandwidth is nan"),
    "bandwidth is empty": (
        replaced("/acquisition/receiver/bandwidth", h5py.Empty("f8")),
        "/acquisition/receiver/bandwidth is empty",
    ),
    "number as text": (replaced("/study/number", "7"), "/study/number holds text"),
    "unreadable time": (replaced("/time", "31.05.2024"), "/time is '31.05.2024'"),
    "time before the calendar": (replaced("/time", "0001-01-01T00:00:00+02:00"), "/time is '0001"),
    "not UTF-8": (replaced("/scanner/name", np.bytes_(b"\xff\xfe")), "/scanner/name is not text"),
    "divider of three channels": (
        replaced("/acquisition/drivefield/divider", np.ones((3, 3), np.int64)),
        "/acquisition/drivefield/divider has shape (3, 3); expected (D=2, F)",
    ),
    "strength of other frequencies": (
        replaced("/acquisition/drivefield/strength", np.ones((2, 2, 4))),
        "/acquisition/drivefield/strength has shape (2, 2, 4); expected (J=2, D=2, F=1)",
    ),
    "gradient of other periods": (
        replaced("/acquisition/gradient", np.ones((3, 1, 3, 3))),
        "/acquisition/gradient has shape (3, 1, 3, 3); expected (J=2, Y, 3, 3)",
    ),
    "transfer function of other bins": (
        replaced("/acquisition/receiver/transferFunction", np.ones((3, 5), complex)),
        "/acquisition/receiver/transferFunction has shape (3, 5); expected (C=3, K=8)",
    ),
    "transfer function of other members": (
        replaced("/acquisition/receiver/transferFunction", np.zeros((3, 8), [("x", "f8"), ("y", "f8")])),
        "expected complex numbers",
    ),
    "conversion of other channels": (
        replaced("/acquisition/receiver/dataConversionFactor", np.ones((2, 2))),
        "dataConversionFactor has shape (2, 2); expected (C=3, 2)",
    ),
    "conversion by NaN": (
        replaced("/acquisition/receiver/dataConversionFactor", np.full((3, 2), np.nan)),
        "dataConversionFactor is nan at index (0, 0)",
    ),
}

CALIBRATION_ERRORS = {
    "no measurement": (without_group("/measurement"), "/calibration is present without /measurement/data"),
    "no method": (without("/calibration/method"), "/calibration/method is missing"),
    "real spectra": (
        replaced("/measurement/data", np.zeros((2, 3, 4, 27), np.float32)),
        "real type float32 while isFourierTransformed is 1",
    ),
    "foreign compound": (
        replaced("/measurement/data", np.zeros((2, 3, 4, 27), [("re", "f4"), ("im", "f4")])),
        "/measurement/data is a compound of the members re, im",
    ),
    "compound of text": (
        replaced("/measurement/data", np.zeros((2, 3, 4, 27), [("r", "S2"), ("i", "S2")])),
        "/measurement/data has the type",
    ),
    "NaN": (data_with(np.nan, (1, 2, 3, 4)), "/measurement/data is (nan+0j) at index (1, 2, 3, 4)"),
    "infinity": (data_with(-np.inf, (0, 1, 2, 26)), "at index (0, 1, 2, 26)"),
    "imaginary infinity": (data_with(complex(1, np.inf), (1, 0, 0, 0)), "at index (1, 0, 0, 0)"),
    "other K": (
        replaced("/measurement/data", np.zeros((2, 3, 5, 27), np.complex64)),
        "expected (J=2, C=3, K=4, N=27)",
    ),
    "unrecorded bandwidth reduction": (
        lambda content: content.update({"/measurement/isFrequencySelection": np.int8(0)}),
        "has shape (2, 3, 4, 27); expected (J=2, C=3, K=8, N=27)",
    ),
    "selection missing": (
        without("/measurement/frequencySelection"),
        "frequencySelection is missing while isFrequencySelection is 1",
    ),
    "0-based selection": (
        replaced("/measurement/frequencySelection", np.array([0, 2, 5, 7])),
        "frequencySelection holds a 0; expected 1-based bins from 1 to 8",
    ),
    "selection beyond the axis": (
        replaced("/measurement/frequencySelection", np.array([1, 2, 5, 9])),
        "frequencySelection holds bin 9; expected 1-based bins from 1 to 8",
    ),
    "negative selection": (
        replaced("/measurement/frequencySelection", np.array([-3, 2, 5, 8])),
        "frequencySelection holds bin -3",
    ),
    "selection twice": (
        replaced("/measurement/frequencySelection", np.array([3, 2, 3, 8])),
        "frequencySelection holds bin 3 more than once",
    ),
    "selection too short": (
        replaced("/measurement/frequencySelection", np.array([3, 2, 8])),
        "expected (J=2, C=3, K=3, N=27)",
    ),
    "selection of two axes": (
        replaced("/measurement/frequencySelection", np.array([[3, 2], [8, 1]])),
        "frequencySelection has shape (2, 2)",
    ),
    "permutation with a gap": (
        replaced("/measurement/framePermutation", np.r_[1:27, 28]),
        "framePermutation, with values from 1 to 28, is no permutation; expected each of 1 to 27 once",
    ),
    "0-based permutation": (
        replaced("/measurement/framePermutation", np.arange(27)),
        "framePermutation, with values from 0 to 26",
    ),
    "permutation twice": (
        replaced("/measurement/framePermutation", np.r_[1:27, 1]),
        "framePermutation, with values from 1 to 26",
    ),
    "short permutation": (
        replaced("/measurement/framePermutation", np.arange(1, 25)),
        "framePermutation has shape (24,); expected (N=27,)",
    ),
    "size of other frames": (
        replaced("/calibration/size", np.array([4, 3, 3])),
        "/calibration/size is [4, 3, 3], that is 36 points; expected 24",
    ),
    "zero size": (replaced("/calibration/size", np.array([24, 1, 0])), "/calibration/size is [24, 1, 0]"),
    "negative size": (
        replaced("/calibration/size", np.array([-4, -3, 2])),
        "/calibration/size is [-4, -3, 2]",
    ),
    "short size": (replaced("/calibration/size", np.array([6, 4])), "/calibration/size has shape"),
    "flat field of view": (
        replaced("/calibration/fieldOfView", np.array([0.04, 0.0, 0.02])),
        "/calibration/fieldOfView is [0.04, 0.0, 0.02]",
    ),
    "field of view is NaN": (
        replaced("/calibration/fieldOfView", np.array([0.04, np.nan, 0.02])),
        "/calibration/fieldOfView is [0.04, nan, 0.02]",
    ),
    "unknown order": (replaced("/calibration/order", "xxz"), "/calibration/order is 'xxz'"),
    "transposed positions": (
        replaced("/calibration/positions", np.zeros((3, 24))),
        "/calibration/positions has shape (3, 24); expected (O=24, 3)",
    ),
    "snr of other bins": (
        replaced("/calibration/snr", np.ones((2, 3, 5))),
        "/calibration/snr has shape (2, 3, 5); expected (J=2, C=3, K=4 or 8)",
    ),
    "snr is NaN": (
        lambda content: content["/calibration/snr"].__setitem__((1, 2, 3), np.nan),
        "/calibration/snr is NaN at index (1, 2, 3)",
    ),
}

RECONSTRUCTION_ERRORS = {
    "size of other voxels": (
        replaced("/reconstruction/size", np.array([4, 3, 3])),
        "/reconstruction/size is [4, 3, 3], that is 36 points; expected 24",
    ),
    "zero size": (
        replaced("/reconstruction/size", np.array([24, 0, 1])),
        "/reconstruction/size is [24, 0, 1]",
    ),
    "unknown order": (replaced("/reconstruction/order", "xy"), "/reconstruction/order is 'xy'"),
    "four axes": (
        replaced("/reconstruction/data", np.zeros((1, 5, 24, 2))),
        "/reconstruction/data has shape (1, 5, 24, 2)",
    ),
    "NaN": (
        lambda content: content["/reconstruction/data"].__setitem__((4, 3, 1), np.nan),
        "/reconstruction/data is nan at index (4, 3, 1)",
    ),
    "short overscan mask": (
        replaced("/reconstruction/isOverscanRegion", np.zeros(23, np.int8)),
        "/reconstruction/isOverscanRegion has shape (23,); expected (P=24,)",
    ),
    "no data": (without("/reconstruction/data"), "/reconstruction/data is missing"),
}


@pytest.mark.parametrize("situation", MEASUREMENT_ERRORS)
def test_broken_measurement(raw_measurement, save_raw, situation):
    change, expected = MEASUREMENT_ERRORS[situation]
    change(raw_measurement)
    assert expected in refusal(save_raw(raw_measurement))


@pytest.mark.parametrize("situation", CALIBRATION_ERRORS)
def test_broken_calibration(raw_calibration, save_raw, situation):
    change, expected = CALIBRATION_ERRORS[situation]
    change(raw_calibration)
    assert expected in refusal(save_raw(raw_calibration))


@pytest.mark.parametrize("situation", RECONSTRUCTION_ERRORS)
def test_broken_reconstruction(raw_reconstruction, save_raw, situation):
    change, expected = RECONSTRUCTION_ERRORS[situation]
    change(raw_reconstruction)
    assert expected in refusal(save_raw(raw_reconstruction))


def test_missing_file(tmp_path):
    assert "there is no such file" in refusal(tmp_path / "none.mdf")


def test_folder(tmp_path):
    assert "there is no such file" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not HDF5 at all", b"\x89HDF\r\n\x1a\n"])
def test_other_files(tmp_path, content):
    path = tmp_path / "other.mdf"
    path.write_bytes(content)
    assert "not an intact HDF5 file" in refusal(path)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_truncated_file(raw_calibration, save_raw, kept):
    path = save_raw(raw_calibration)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    assert "not an intact HDF5 file" in refusal(path)


@pytest.mark.parametrize("signature", [b"TREE", b"HEAP", b"SNOD"])
def test_damaged_group(raw_measurement, save_raw, signature):
    path = save_raw(raw_measurement)
    whole = path.read_bytes()
    places = [match.start() for match in re.finditer(signature, whole)]
    assert len(places) >= 6  # one per group
    for place in places:
        path.write_bytes(whole[:place] + bytes(4) + whole[place + 4 :])
        assert re.search(r"is missing|cannot be read|not an intact HDF5 file", refusal(path))


def test_damaged_compressed_data(raw_measurement, save_raw):
    data = raw_measurement.pop("/measurement/data")
    path = save_raw(raw_measurement)
    with h5py.File(path, "r+") as handle:
        handle.create_dataset("/measurement/data", data=data, chunks=True, compression="gzip")
        chunk = handle["/measurement/data"].id.get_chunk_info(0)
    damaged = bytearray(path.read_bytes())
    damaged[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(damaged)
    assert re.search(r"/measurement/data cannot be read \(.*\)", refusal(path))
