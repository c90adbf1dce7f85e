"""A recording cut off at any write is an MDF file of the frames before, once it is recovered."""

import errno
import json
import os

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from engine.cli import main
from engine.errors import MdfError, RecordingError
from engine.live.recording import growing_file
from engine.live.recording.contents import frame_content, frame_row, image_content, image_row, load_template
from engine.live.recording.finish import finish_in_steps, recover_folder, recover_recording
from engine.live.recording.growing_file import GrowingFile
from engine.mpi.mdf import read_mdf

N_FRAMES = 3
WRITES_PER_FRAME = 6  # data, mask, three numbers and the count


@pytest.fixture(scope="module")
def template(scanner):
    return load_template(scanner.template, scanner.acquisition)


@pytest.fixture
def begin(scanner, template, tmp_path):
    """Begin a recording of raw frames."""

    def begin_one(capacity=100, name="a-raw.mdf"):
        content = frame_content(template, scanner.frame(1))
        return GrowingFile(tmp_path / name, content.metadata, content.columns, content.extras, capacity)

    return begin_one


def rows(scanner, first=1):
    return [frame_row(scanner.frame(number), 0) for number in range(first, first + N_FRAMES)]


def append_all(file, rows):
    for row in rows:
        file.append(row)


@pytest.mark.parametrize("failing", range(1, N_FRAMES * WRITES_PER_FRAME + 1))
def test_a_write_that_fails_costs_its_frame_only(scanner, begin, tmp_path, monkeypatch, failing):
    file = begin()
    calls = []

    def limited(descriptor, data, offset):
        calls.append(offset)
        if len(calls) == failing:
            # A disk that becomes full in the midst of a write; the aligned count is written as one.
            written = 0 if failing % WRITES_PER_FRAME == 0 else len(data) // 2
            os_pwrite(descriptor, bytes(data)[:written], offset)
            raise OSError(errno.ENOSPC, "No space left on device")
        return os_pwrite(descriptor, data, offset)

    os_pwrite = os.pwrite
    monkeypatch.setattr(growing_file.os, "pwrite", limited)
    with pytest.raises(OSError, match="No space"):
        append_all(file, rows(scanner))
    file.close()
    n_complete = (failing - 1) // WRITES_PER_FRAME
    if n_complete == 0:
        assert list(tmp_path.iterdir()) == []
        return
    assert recover_recording(tmp_path / "a-raw.mdf").n_frames == n_complete
    data = read_mdf(tmp_path / "a-raw.mdf").measurement.data
    assert np.array_equal(data, [scanner.frame(1 + index).data for index in range(n_complete)])


def test_short_writes_are_continued(scanner, begin, tmp_path, monkeypatch):
    file = begin()
    os_pwrite = os.pwrite
    monkeypatch.setattr(growing_file.os, "pwrite", lambda fd, data, at: os_pwrite(fd, bytes(data)[:100], at))
    append_all(file, rows(scanner))
    file.close()
    recover_recording(tmp_path / "a-raw.mdf")
    data = read_mdf(tmp_path / "a-raw.mdf").measurement.data
    assert np.array_equal(data, [scanner.frame(number).data for number in (1, 2, 3)])


def test_plain_h5py_reads_what_is_complete_while_it_grows(scanner, begin, tmp_path):
    file = begin()
    for n_frames, row in enumerate(rows(scanner), start=1):
        file.append(row)
        with h5py.File(tmp_path / "a-raw.mdf") as handle:
            assert handle["/acquisition/numFrames"][()] == n_frames
            last = handle["/measurement/data"][n_frames - 1]
        assert np.array_equal(last, scanner.frame(n_frames).data)


def test_frames_to_come_take_no_space(scanner, begin, tmp_path):
    file = begin(capacity=100_000)
    append_all(file, rows(scanner))
    status = (tmp_path / "a-raw.mdf").stat()
    assert status.st_size > 100_000 * scanner.frame(1).data.nbytes
    assert status.st_blocks * 512 < 2**20


def test_an_unfinished_recording_says_what_to_do(scanner, begin, tmp_path, monkeypatch):
    monkeypatch.setattr("engine.live.recording.finish.LOCK_WAIT_S", 0.05)
    file = begin()
    append_all(file, rows(scanner))
    path = tmp_path / "a-raw.mdf"
    with pytest.raises(MdfError, match=r"recording of 3 frames that was not finished; expected .* recover"):
        read_mdf(path)
    shown = CliRunner().invoke(main, ["info", str(path)])
    assert shown.exit_code == 2
    assert "engine recover" in shown.output
    refused = CliRunner().invoke(main, ["recover", str(path)])
    assert refused.exit_code == 1
    assert "is being recorded" in refused.output
    assert CliRunner().invoke(main, ["recover", str(tmp_path)]).output.startswith("nothing to recover")
    file.close()
    recovered = CliRunner().invoke(main, ["recover", str(tmp_path)])
    assert recovered.exit_code == 0
    assert recovered.output == f"recovered {path}: 3 frames or images\n"
    assert CliRunner().invoke(main, ["info", str(path)]).exit_code == 0
    again = CliRunner().invoke(main, ["recover", str(path)])
    assert (again.exit_code, "nothing has to be done" in again.output) == (1, True)


def test_recovering_what_is_not_there(tmp_path):
    assert CliRunner().invoke(main, ["recover", str(tmp_path / "nothing")]).exit_code == 2
    (tmp_path / "text.mdf").write_text("no HDF5")
    with pytest.raises(RecordingError, match="no unfinished recording"):
        recover_recording(tmp_path / "text.mdf")


def test_finishing_can_be_cut_off_at_every_step(scanner, begin, tmp_path, monkeypatch):
    monkeypatch.setattr("engine.live.recording.finish.BLOCK_BYTES", 1)
    file = begin()
    append_all(file, rows(scanner))
    file.close()
    path = tmp_path / "a-raw.mdf"
    n_steps = 0
    while True:
        steps = finish_in_steps(path)
        try:
            for _ in range(n_steps + 1):
                next(steps)
        except StopIteration:
            break
        steps.close()
        n_steps += 1
        assert list(tmp_path.iterdir()) == [path]  # and it is still the recording
    assert n_steps > 2 * N_FRAMES
    assert np.array_equal(
        read_mdf(path).measurement.data, [scanner.frame(number).data for number in (1, 2, 3)]
    )


def test_leftovers_of_killed_processes_disappear(scanner, begin, tmp_path):
    (tmp_path / ".b-raw.0123abcd.partial.mdf").write_bytes(b"half")
    (tmp_path / ".hidden.mdf").write_bytes(b"of somebody else")
    waiting = begin(name="c-raw.mdf")  # no frame yet, but its process lives
    mine = next(tmp_path.glob(".c-raw.*.partial.mdf"))
    assert recover_folder(tmp_path) == []
    assert {path.name for path in tmp_path.iterdir()} == {".hidden.mdf", mine.name}
    waiting.close()
    assert {path.name for path in tmp_path.iterdir()} == {".hidden.mdf"}


def test_files_are_shorter_where_long_ones_are_not_allowed(begin, monkeypatch):
    os_ftruncate, longest = os.ftruncate, 2 * 2**20

    def limited(descriptor, length):
        if length > longest:
            raise OSError(errno.EFBIG, "File too large")
        os_ftruncate(descriptor, length)

    monkeypatch.setattr(growing_file.os, "ftruncate", limited)
    file = begin(capacity=100_000)
    row = 3 * 2 * 101 * 8 + 1 + 3 * 8
    assert longest / 4 < 2**20 + file.capacity * row <= longest


def test_a_full_file_takes_no_more(scanner, begin, tmp_path):
    file = begin(capacity=2)
    first, second, third = rows(scanner)
    file.append(first)
    file.append(second)
    assert file.is_full
    with pytest.raises(RecordingError, match="begin another"):
        file.append(third)
    file.close()
    assert recover_recording(tmp_path / "a-raw.mdf").n_frames == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.popitem(),
        lambda row: row.update({"/measurement/data": np.zeros((3, 2, 5))}),
    ],
    ids=["missing", "shape"],
)
def test_a_row_that_does_not_fit_is_refused(scanner, begin, tmp_path, change):
    file = begin()
    good, bad, _ = rows(scanner)
    file.append(good)
    change(bad)
    with pytest.raises(RecordingError):
        file.append(bad)
    file.close()
    assert recover_recording(tmp_path / "a-raw.mdf").n_frames == 1


def test_reports_of_any_length_are_kept(scanner, template, tmp_path):
    image = scanner.image(3)
    content = image_content(template.file, image.grid, None)
    file = GrowingFile(
        tmp_path / "i-images.mdf", content.metadata, content.columns, content.extras, capacity=10
    )
    reports = [{"note": "größer", "residuals": [0.5]}, {"note": "", "residuals": [1 / 3] * 10_000}]
    for report in reports:
        file.append(image_row(image.image, None, report, has_bounds=False))
    file.close()
    recover_recording(tmp_path / "i-images.mdf")
    with h5py.File(tmp_path / "i-images.mdf") as handle:
        texts = handle["/reconstruction/_report"].asstr()[()]
        names = set(handle["/reconstruction"])
    assert [json.loads(text) for text in texts] == [reports[0], {"note": "", "residuals": []}]
    assert names == {"data", "size", "order", "fieldOfView", "fieldOfViewCenter", "_report"}


def test_a_damaged_recording_is_refused(scanner, begin, tmp_path):
    file = begin()
    append_all(file, rows(scanner))
    file.close()
    path = tmp_path / "a-raw.mdf"
    with h5py.File(path, "r+") as handle:
        handle["/acquisition/numFrames"][()] = 101
    with pytest.raises(RecordingError, match="holds 101 frames; expected 1 to 100"):
        recover_recording(path)
    with h5py.File(path, "r+") as handle:
        del handle["/_recording"]
        handle["/_recording"] = "no JSON"
    with pytest.raises(RecordingError, match="/_recording cannot be read"):
        recover_recording(path)
