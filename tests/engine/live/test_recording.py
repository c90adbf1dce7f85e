"""What is recorded comes back, frame by frame, from ordinary MDF files."""

import json

import h5py
import numpy as np
import pytest

from engine.errors import ConfigError
from engine.mpi.image_intervals import read_intervals
from engine.mpi.mdf import read_mdf
from engine.mpi.mdf_access import bins, images, reconstruction_grid


def recorded(folder, ending):
    return sorted(folder.glob(f"*-{ending}.mdf"))


def test_frames_come_back_with_their_numbers_and_times(scanner, open_recorder, tmp_path):
    recorder = open_recorder()
    frames = [scanner.frame(number) for number in range(20)]
    assert all(recorder.frame(frame, 5 + frame.sequence) for frame in frames)
    recorder.close()
    state = recorder.state()
    assert (state.status, state.frames_in, state.frames_written, state.frames_lost) == ("closed", 20, 20, 0)
    assert (state.reason, state.unfinished, state.lost) == ("", (), {})
    (path,) = recorded(tmp_path / "recordings", "raw")
    assert state.files == (path.name,)
    file = read_mdf(path)
    expected = np.stack([frame.data for frame in frames])
    assert file.measurement.data.dtype == expected.dtype
    assert np.array_equal(file.measurement.data, expected)
    assert np.array_equal(file.measurement.is_background_frame, [number % 7 == 0 for number in range(20)])
    assert np.array_equal(bins(file), np.arange(101))
    with h5py.File(path) as handle:
        assert np.array_equal(handle["/measurement/_sequence"], np.arange(20))
        assert np.array_equal(handle["/measurement/_acquiredNs"], 10**18 + np.arange(20))
        assert np.array_equal(handle["/measurement/_receivedNs"], 5 + np.arange(20))
        assert handle["/measurement/_stream"].asstr()[()] == "run"
        assert "/_recording" not in handle
        assert all_contiguous(handle)


def all_contiguous(handle):
    """Whether other readers can map every array."""
    found = []
    handle.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
    assert found
    return all(dataset.chunks is None and dataset.id.get_create_plist().get_nfilters() == 0 for dataset in found)
