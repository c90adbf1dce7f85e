"""What is played is what the file holds, in order and on time."""

import time
from dataclasses import replace

import numpy as np
import pytest

from engine.errors import InputError
from engine.live.replay import player
from engine.live.replay.player import measured_frames, play
from engine.measurement.file_rows import measurement_rows
from engine.mpi.mdf.new_files import new_measurement_file

MASK = np.array([True, True, False, True, False])

SINGLE = 1e-6
"""Relative: measureds are played in single precision."""


@pytest.fixture
def spectra(scan, image):
    concentrations = np.outer(~MASK, image)
    return scan.frames(concentrations, np.random.default_rng(9))


@pytest.fixture
def no_pause(monkeypatch):
    """Play without waiting, and note when each frame would have been sent."""
    times = []
    clock = {"now": 0.0}

    class Time:
        perf_counter = staticmethod(lambda: clock["now"])
        time_ns = staticmethod(time.time_ns)

        @staticmethod
        def sleep(seconds):
            clock["now"] += seconds
            times.append(clock["now"])

    monkeypatch.setattr(player, "time", Time)
    return times


def test_frames_of_a_file_once_and_then_its_object_over_and_over(scan, spectra, no_pause):
    measured = measured_frames(scan.measurement(spectra, MASK))
    frames = list(play(measured, rate=10.0, seconds=0.6, stream="x"))
    assert [frame.sequence for frame in frames] == list(range(8))
    assert [frame.is_background for frame in frames] == [True, True, False, True] + [False] * 4
    for frame, source in zip(frames, [0, 1, 2, 3, 4, 2, 4, 2], strict=True):
        np.testing.assert_array_equal(frame.data, spectra[source].astype(np.complex64))
        assert frame.stream == "x"
    np.testing.assert_allclose(no_pause, np.arange(8) / 10.0)


def test_layouts_orders_and_factors_of_files(scan, operators, spectra):
    file = scan.measurement(spectra, MASK)
    expected = measurement_rows(file, operators).rows

    def rows_of(measured):
        played = scan.measurement(measured.frames.astype(np.complex128), measured.is_background)
        return measurement_rows(played, operators).rows

    np.testing.assert_allclose(rows_of(measured_frames(file)), expected, rtol=0, atol=SINGLE * expected.max())
    permutation = np.array([3, 1, 5, 2, 4])
    shuffled = replace(
        file.measurement,
        data=np.moveaxis(file.measurement.data[permutation - 1], 0, -1),
        is_fast_frame_axis=True,
        is_frame_permutation=True,
        frame_permutation=permutation,
        is_background_frame=MASK[permutation - 1],
    )
    found = measured_frames(replace(file, measurement=shuffled))
    np.testing.assert_array_equal(found.is_background, MASK)
    np.testing.assert_allclose(rows_of(found), expected, rtol=0, atol=SINGLE * expected.max())


def test_bins_are_sorted_and_counts_converted(scan, spectra):
    kept = np.array([30, 20, 40])
    found = measured_frames(scan.measurement(spectra, MASK, bins=kept))
    assert found.bins.tolist() == [20, 30, 40]
    np.testing.assert_array_equal(found.frames, spectra[..., [20, 30, 40]].astype(np.complex64))

    counts = np.random.default_rng(1).integers(-100, 100, (5, 3, 2, 200)).astype(np.int16)
    acquisition = scan.acquisition(data_conversion_factor=np.array([[0.5, 1.0], [2.0, -3.0]]))
    file = new_measurement_file(counts, acquisition=acquisition, background_mask=MASK)
    found = measured_frames(file)
    assert found.bins is None
    np.testing.assert_array_equal(found.frames[:, :, 0], 0.5 * counts[:, :, 0] + 1)
    np.testing.assert_array_equal(found.frames[:, :, 1], 2.0 * counts[:, :, 1] - 3)


def test_what_cannot_be_played(scan, spectra):
    measured = measured_frames(scan.measurement(spectra, MASK))
    with pytest.raises(InputError, match="rate is 0"):
        next(play(measured, rate=0, seconds=1, stream=""))
    background = replace(measured, is_background=np.ones(5, bool))
    with pytest.raises(InputError, match="background frames only"):
        next(play(background, rate=1, seconds=1, stream=""))
