"""Rows of raw frames are those of the same frames in a file, in every form in which they can come."""

import numpy as np
import pytest

from engine.errors import InputError, PairingError
from engine.measurement.file_rows import whiten_rows
from engine.measurement.frame_rows import FrameRows, saturated_channels, whiten
from engine.measurement.raw_frame import RawFrame

SINGLE = 1e-6
"""Relative to the largest row: `whiten_rows` returns single precision."""


@pytest.fixture
def spectra(scan, image):
    return scan.frames(image[None], np.random.default_rng(6))[0]


def rows_of(frame, operators, conversion=None):
    rows = FrameRows(operators, conversion)
    rows.require_frame(frame)
    return whiten(rows.rows(frame, rows.spectra(frame)), operators)


def assert_rows(found, spectra, operators):
    expected = whiten_rows(spectra[None], operators)[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=SINGLE * np.abs(expected).max())


def test_full_axis(operators, spectra):
    assert_rows(rows_of(RawFrame(0, spectra), operators), spectra, operators)


def test_bins_of_the_calibration(operators, spectra):
    frame = RawFrame(0, spectra[..., operators.acquisition.bins])
    assert_rows(rows_of(frame, operators), spectra, operators)


def test_listed_bins(operators, spectra):
    kept = np.arange(15, 40)
    frame = RawFrame(0, spectra[..., kept], bins=kept)
    assert_rows(rows_of(frame, operators), spectra, operators)


def test_time_signals_and_counts(operators, spectra):
    spectra = spectra.copy()
    spectra[..., [0, -1]] = spectra[..., [0, -1]].real  # of a real signal
    signals = np.fft.irfft(spectra, 200, axis=-1)
    assert_rows(rows_of(RawFrame(0, signals), operators), spectra, operators)
    conversion = np.array([[2e-8, 0.1], [3e-8, -0.2]])
    counts = np.rint((signals - conversion[:, 1:]) / conversion[:, :1]).astype(np.int32)
    assert_rows(rows_of(RawFrame(0, counts), operators, conversion), spectra, operators)


def test_gain_of_spectra(operators, spectra):
    conversion = np.array([[0.5, 0.1], [4.0, 0.0]])
    frame = RawFrame(0, spectra / conversion[:, :1])
    assert_rows(rows_of(frame, operators, conversion), spectra, operators)


@pytest.mark.parametrize(
    ("shape", "bins", "message"),
    [
        ((2, 2, 101), None, "3 periods .*2 channels"),
        ((3, 1, 101), None, "3 periods .*2 channels"),
        ((3, 2, 100), None, "100 bins"),
        ((3, 101), None, "shape"),
        ((3, 2, 3), np.array([20, 21, 22]), "missing"),
        ((3, 2, 3), np.array([20, 21, 101]), "below 101"),
        ((3, 2, 3), np.array([20, 21]), "for 3 columns"),
    ],
)
def test_what_does_not_belong_to_the_calibration(operators, shape, bins, message):
    with pytest.raises(PairingError, match=message):
        FrameRows(operators).require_frame(RawFrame(0, np.ones(shape, np.complex64), bins=bins))


def test_time_signals_of_another_length(operators):
    with pytest.raises(PairingError, match=r"199 samples .*200"):
        FrameRows(operators).require_frame(RawFrame(0, np.ones((3, 2, 199), np.float32)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_name_the_channel(operators, spectra, bad):
    spectra[2, 1, 50] = bad
    with pytest.raises(InputError, match=r"channels \[1\]"):
        FrameRows(operators).require_frame(RawFrame(0, spectra))


def test_saturation_per_channel():
    signals = np.zeros((3, 2, 8), np.int16)
    assert saturated_channels(RawFrame(0, signals), None).size == 0
    signals[1, 1, 4] = -32768
    assert saturated_channels(RawFrame(0, signals), None).tolist() == [1]
    floats = np.zeros((3, 2, 8), np.float32)
    floats[0, 0, 0] = -2.0
    assert saturated_channels(RawFrame(0, floats), None).size == 0
    assert saturated_channels(RawFrame(0, floats), 2.0).tolist() == [0]
    assert saturated_channels(RawFrame(0, floats), 2.1).size == 0
    assert saturated_channels(RawFrame(0, floats.astype(np.complex64)), 1.0).size == 0
