"""What is recorded comes back, frame by frame, from ordinary MDF files."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest

from engine.errors import ConfigError
from engine.live.recording.pipe import WriterProcess
from engine.live.wire.messages import encode_frame
from engine.mpi.mdf import read_mdf, write_mdf
from engine.mpi.mdf.grids import images, reconstruction_grid
from engine.mpi.mdf.image_intervals import read_intervals
from engine.mpi.mdf.spectra import bins


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
    return all(
        dataset.chunks is None and dataset.id.get_create_plist().get_nfilters() == 0 for dataset in found
    )


def test_values_are_stored_as_they_come(scanner, open_recorder, tmp_path):
    types = ["int16", "float32", "complex128"]
    recorder = open_recorder()
    for dtype in types:
        for number in (1, 2):
            recorder.frame(scanner.frame(number, dtype=dtype), 0)
    recorder.close()
    paths = recorded(tmp_path / "recordings", "raw")
    for path, dtype in zip(paths, types, strict=True):
        data = read_mdf(path).measurement.data
        assert data.dtype == np.dtype(dtype)
        assert np.array_equal(data, [scanner.frame(number, dtype=dtype).data for number in (1, 2)])


def test_a_message_is_recorded_as_the_frame_in_it_and_not_encoded_again(
    scanner, open_recorder, tmp_path, monkeypatch
):
    handed_over = []
    send = WriterProcess.send

    def remember(self, kind, received_ns, parts):
        handed_over.extend(parts)
        send(self, kind, received_ns, parts)

    monkeypatch.setattr(WriterProcess, "send", remember)
    recorder = open_recorder()
    messages = [encode_frame(scanner.frame(number)) for number in range(3)]
    assert all(recorder.message(parts, 5) for parts in messages)
    recorder.close()
    given = [part for parts in messages for part in parts]
    assert all(one is other for one, other in zip(handed_over, given, strict=True))
    (path,) = recorded(tmp_path / "recordings", "raw")
    expected = np.stack([scanner.frame(number).data for number in range(3)])
    assert np.array_equal(read_mdf(path).measurement.data, expected)
    with h5py.File(path) as handle:
        assert np.array_equal(handle["/measurement/_sequence"], np.arange(3))
        assert np.array_equal(handle["/measurement/_receivedNs"], [5, 5, 5])


def test_images_come_back_with_reports_and_intervals(scanner, open_recorder, tmp_path):
    recorder = open_recorder()
    given = [True, True, False, True]  # the third has no interval, as a zero measurement
    for number, has_interval in enumerate(given):
        assert recorder.image(scanner.image(number, has_interval=has_interval))
    recorder.close()
    state = recorder.state()
    assert (state.images_in, state.images_written, state.images_lost) == (4, 4, 0)
    (path,) = recorded(tmp_path / "recordings", "images")
    file = read_mdf(path)
    numbers = np.arange(4, dtype=np.float32)[:, None, None, None]
    expected = np.broadcast_to(numbers, (4, 1, 4, 5))
    assert images(file).dtype == np.float32
    assert np.array_equal(np.squeeze(images(file)), np.squeeze(expected))
    intervals = read_intervals(path, reconstruction_grid(file))
    assert intervals.coverage == 0.9
    assert np.array_equal(np.isnan(intervals.low).all(axis=(1, 2, 3)), ~np.array(given))
    assert np.array_equal(intervals.low[given], expected[given] - 1)
    assert np.array_equal(intervals.high[given], expected[given] + 1)
    with h5py.File(path) as handle:
        reports = [json.loads(text) for text in handle["/reconstruction/_report"].asstr()[()]]
        assert all_contiguous(handle)
    assert [report["sequence"] for report in reports] == [0, 1, 2, 3]
    assert reports[1]["residuals"] == [0.5, 0.25]
    assert reports[1]["background"]["n_frames"] == 0


def test_a_new_file_begins_when_frames_change_or_a_file_is_full(scanner, open_recorder, tmp_path):
    recorder = open_recorder(frames_per_file=4)
    columns = np.arange(20, 60)
    selected = {"data": scanner.frame(1).data[..., 20:60], "bins": columns}
    given = [
        *(scanner.frame(number) for number in range(6)),  # 4 + 2
        scanner.frame(6, stream="../../other"),
        scanner.frame(7, stream="../../other", dtype="float32"),
        scanner.frame(8, stream="../../other", dtype="float64"),
        scanner.frame(9, stream="../../other", **selected),
        scanner.frame(10, stream="../../other", **(selected | {"bins": columns + 1})),
        scanner.frame(11, stream="../../other", **(selected | {"bins": None})),  # those of the operators
    ]
    for frame in given:
        assert recorder.frame(frame, 0)
    recorder.close()
    paths = recorded(tmp_path / "recordings", "raw")
    assert len(set(paths)) == 8
    sequences = []
    for path in paths:
        with h5py.File(path) as handle:
            sequences.append(handle["/measurement/_sequence"][()].tolist())
    assert sequences == [[0, 1, 2, 3], [4, 5], [6], [7], [8], [9], [10], [11]]
    assert np.array_equal(bins(read_mdf(paths[6])), columns + 1)
    assert np.array_equal(bins(read_mdf(paths[7])), columns)
    assert {path.parent for path in tmp_path.rglob("*.mdf")} == {tmp_path / "recordings"}


def test_what_no_file_may_hold_is_lost_with_its_reason(scanner, open_recorder, tmp_path):
    recorder = open_recorder()
    not_finite = scanner.frame(2)
    not_finite.data[0, 1, 5] = np.nan
    recorder.frame(scanner.frame(1), 0)
    recorder.frame(not_finite, 0)
    recorder.frame(scanner.frame(3, data=np.zeros((3, 1, 101), np.complex64)), 0)
    recorder.frame(scanner.frame(4, dtype="uint16"), 0)
    recorder.frame(scanner.frame(5, stream="x" * 65), 0)
    recorder.frame(scanner.frame(6), 0)
    recorder.close()
    state = recorder.state()
    assert state.lost == {"not-finite": 1, "mismatch": 1, "dtype": 1, "value": 1}
    assert (state.frames_in, state.frames_written, state.frames_lost) == (6, 2, 4)
    (path,) = recorded(tmp_path / "recordings", "raw")  # the bad ones did not end the file
    assert np.array_equal(read_mdf(path).measurement.data, [scanner.frame(n).data for n in (1, 6)])
    assert "shape" in state.reason


def test_nothing_recorded_leaves_nothing(open_recorder, tmp_path):
    open_recorder().close()
    assert list((tmp_path / "recordings").iterdir()) == []


def test_frames_after_the_end_are_counted(scanner, open_recorder):
    recorder = open_recorder()
    recorder.close()
    assert not recorder.frame(scanner.frame(1), 0)
    assert not recorder.image(scanner.image(1))
    state = recorder.state()
    assert (state.frames_lost, state.images_lost, state.lost) == (1, 1, {"closed": 2})
    assert json.loads(json.dumps(state.to_dict()))["status"] == "closed"


def test_a_file_of_background_frames_only_is_kept_and_named(scanner, open_recorder, tmp_path):
    recorder = open_recorder()
    recorder.frame(scanner.frame(7), 0)
    recorder.close()
    (path,) = recorded(tmp_path / "recordings", "raw")
    assert "background frames only" in recorder.state().reason
    with h5py.File(path) as handle:
        assert np.array_equal(handle["/measurement/data"], [scanner.frame(7).data])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames_per_file": 0}, "frames_per_file"),
        ({"queue_frames": 100_001}, "queue_frames"),
        ({"min_free_mb": -1.0}, "min_free_mb"),
        ({"retry_s": float("nan")}, "retry_s"),
    ],
)
def test_wrong_settings_are_refused(open_recorder, changes, message):
    with pytest.raises(ConfigError, match=message):
        open_recorder(**changes)


def test_a_folder_or_template_that_cannot_be_used_is_refused(open_recorder, scanner, tmp_path):
    with pytest.raises(ConfigError, match="expected an existing folder"):
        open_recorder(folder=tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="there is no such file"):
        open_recorder(template=tmp_path / "nothing.mdf")


def test_a_template_of_another_scanner_is_refused(scan, open_recorder, tmp_path):
    other = scan.measurement(np.ones((1, 3, 2, 101), complex))
    receiver = replace(other.acquisition.receiver, bandwidth=20e3)
    write_mdf(
        tmp_path / "other.mdf", replace(other, acquisition=replace(other.acquisition, receiver=receiver))
    )
    with pytest.raises(ConfigError, match="bandwidth"):
        open_recorder(template=tmp_path / "other.mdf")
