"""A measurement is reconstructed while another process writes it."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from engine.calibration.calibrate import CalibrationConfig, calibrate
from engine.cli import main
from engine.errors import MdfError, PairingError
from engine.live.recording.contents import frame_content, frame_row, load_template
from engine.live.recording.finish import recover_recording
from engine.live.recording.follow import follow_frames
from engine.live.recording.growing_file import GrowingFile
from engine.measurement.file_rows import NOTE_NO_BACKGROUND
from engine.measurement.raw_frame import RawFrame
from engine.mpi.mdf import read_mdf, write_mdf
from engine.mpi.mdf.grids import images
from engine.mpi.row_layout import Acquisition
from engine.operators.operators_file import save_operators

ROOT = Path(__file__).parents[4]
MASK = np.arange(10) < 4  # background first, so that the running mean is the mean from the first frame on
IDLE_S = 60.0  # never reached where a file is closed
SHORT_S = 0.1

SINGLE_TOLERANCE = 1e-5
"""Relative: the same values in another order of single-precision operations."""


@pytest.fixture(scope="module")
def operators(scan):
    return calibrate(scan.calibration(), CalibrationConfig(harmonics=(2, 3), harmonic_half_width=200.0))


@pytest.fixture(scope="module")
def measured(scan):
    """A measurement of six images after four background frames."""
    rng = np.random.default_rng(31)
    concentrations = np.concatenate([np.zeros((4, 20)), rng.uniform(0, 2, (6, 20))])
    return scan.measurement(scan.frames(concentrations, rng), MASK)


SWMR_WRITER = """
import sys, time
import h5py, numpy as np
source, target, pause, n_frames = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
with h5py.File(source) as given, h5py.File(target, "w", libver="latest") as file:
    data, mask = given["/measurement/data"][()], given["/measurement/isBackgroundFrame"][()]
    growing = {"measurement/data": data, "measurement/isBackgroundFrame": mask}
    def copy(name, item):
        if isinstance(item, h5py.Dataset) and name not in growing:
            file.create_dataset(name, data=item[()], dtype=item.dtype)
    given.visititems(copy)
    for name, values in growing.items():
        file.create_dataset(name, (0, *values.shape[1:]), values.dtype, maxshape=(None, *values.shape[1:]),
            chunks=(1, *values.shape[1:]))
    count = file["/acquisition/numFrames"]
    count[()] = 0
    file.swmr_mode = True
    for index in range(n_frames):
        time.sleep(pause)
        for name, values in growing.items():
            file[name].resize(index + 1, axis=0)
            file[name][index] = values[index]
            file[name].flush()
        count[()] = index + 1
        count.flush()
    if n_frames < len(data):
        print("waiting", flush=True)
        time.sleep(600)
"""


@pytest.fixture
def swmr_writer(measured, tmp_path):
    """Start a process that appends the measurement to a file, as a scanner may."""
    write_mdf(tmp_path / "source.mdf", measured)
    started = []

    def start(pause=0.02, n_frames=10):
        arguments = [str(tmp_path / "source.mdf"), str(tmp_path / "growing.mdf"), str(pause), str(n_frames)]
        process = subprocess.Popen([sys.executable, "-c", SWMR_WRITER, *arguments], stdout=subprocess.PIPE)
        started.append(process)
        return tmp_path / "growing.mdf"

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def check_frames(frames, measured):
    measurement = measured.measurement
    assert [frame.sequence for frame in frames] == list(range(len(measurement.data)))
    assert np.array_equal([frame.data for frame in frames], measurement.data)
    assert [frame.is_background for frame in frames] == measurement.is_background_frame.tolist()


def test_frames_of_an_swmr_writer(swmr_writer, measured, operators):
    path = swmr_writer()  # the file does not exist yet
    check_frames(list(follow_frames(path, operators, IDLE_S)), measured)


def test_a_writer_that_hangs_is_waited_for_no_longer_than_asked(swmr_writer, measured, operators):
    path = swmr_writer(n_frames=3)
    found = follow_frames(path, operators, IDLE_S)
    first = [next(found) for _ in range(3)]
    found.close()
    assert [frame.sequence for frame in first] == [0, 1, 2]
    assert len(list(follow_frames(path, operators, SHORT_S))) == 3


def test_frames_of_a_recorder(scanner, open_recorder, operators, tmp_path):
    """Also across the moment in which the recording becomes an ordinary file."""
    recorder = open_recorder()
    assert recorder.frame(scanner.frame(0), 0)
    while not (paths := list((tmp_path / "recordings").glob("*-raw.mdf"))):
        time.sleep(0.01)
    found = []
    follower = threading.Thread(target=lambda: found.extend(follow_frames(paths[0], operators, IDLE_S)))
    follower.start()
    for number in range(1, 60):
        assert recorder.frame(scanner.frame(number), 0)
        time.sleep(0.001)
    recorder.close()
    follower.join()
    assert [frame.sequence for frame in found] == list(range(60))
    for number, frame in enumerate(found):
        expected = scanner.frame(number)
        assert np.array_equal(frame.data, expected.data)
        assert (frame.stream, frame.acquired_ns) == ("run", expected.acquired_ns)
        assert frame.is_background == expected.is_background


@pytest.mark.parametrize("permuted", [False, True])
def test_a_finished_file_gives_all_frames_in_the_order_of_acquisition(
    measured, operators, tmp_path, permuted
):
    stored = measured
    if permuted:
        order = np.random.default_rng(1).permutation(10)
        stored = replace(
            measured,
            measurement=replace(
                measured.measurement,
                data=np.moveaxis(measured.measurement.data[order], 0, -1),
                is_fast_frame_axis=True,
                is_background_frame=measured.measurement.is_background_frame[order],
                is_frame_permutation=True,
                frame_permutation=order + 1,
            ),
        )
    write_mdf(tmp_path / "finished.mdf", stored)
    check_frames(list(follow_frames(tmp_path / "finished.mdf", operators, SHORT_S)), measured)


def test_a_file_of_another_scanner_is_refused(measured, operators, tmp_path):
    receiver = replace(measured.acquisition.receiver, bandwidth=20e3)
    other = replace(measured, acquisition=replace(measured.acquisition, receiver=receiver))
    write_mdf(tmp_path / "other.mdf", other)
    with pytest.raises(PairingError, match="bandwidth"):
        next(follow_frames(tmp_path / "other.mdf", operators, SHORT_S))


def test_a_file_that_does_not_come(operators, tmp_path):
    with pytest.raises(MdfError, match=r"there is no such file, after 0\.1 s"):
        next(follow_frames(tmp_path / "none.mdf", operators, SHORT_S))
    (tmp_path / "text.mdf").write_text("no HDF5")
    with pytest.raises(MdfError, match=r"after 0\.1 s; expected an MDF measurement"):
        next(follow_frames(tmp_path / "text.mdf", operators, SHORT_S))


@pytest.fixture
def recon(operators, tmp_path):
    """Run `engine recon` by least squares."""
    save_operators(tmp_path / "operators.h5", operators)

    def run(measurement, out, *options):
        arguments = ["recon", str(measurement), str(out), "--operators", str(tmp_path / "operators.h5")]
        return CliRunner().invoke(main, [*arguments, "--method", "least-squares", *options])

    return run


def test_recon_follows(swmr_writer, recon, tmp_path):
    path = swmr_writer()
    stats = tmp_path / "stats.json"
    followed = recon(path, tmp_path / "followed.mdf", "--follow", "--idle", "60", "--stats", str(stats))
    assert followed.exit_code == 0, followed.output
    assert "6 images, 6 converged, 0 frames failed" in followed.output
    at_once = recon(tmp_path / "source.mdf", tmp_path / "at-once.mdf", "--stats", str(tmp_path / "all.json"))
    assert at_once.exit_code == 0
    expected = images(read_mdf(tmp_path / "at-once.mdf"))
    found = images(read_mdf(tmp_path / "followed.mdf"))
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(
        found, expected, rtol=SINGLE_TOLERANCE, atol=SINGLE_TOLERANCE * np.abs(expected).max()
    )
    report, reference = (json.loads(file.read_text()) for file in (stats, tmp_path / "all.json"))
    assert report.keys() == reference.keys() - {"background_sigma"}
    assert [frame["frame"] for frame in report["frames"]] == [0, 1, 2, 3, 4, 5]
    assert report["frames"][0].keys() == reference["frames"][0].keys()


def test_recon_says_that_no_background_came_before_the_first_frame(recon, measured, tmp_path):
    kept = measured.measurement
    later = replace(kept, data=kept.data[::-1], is_background_frame=kept.is_background_frame[::-1])
    write_mdf(tmp_path / "later.mdf", replace(measured, measurement=later))
    result = recon(tmp_path / "later.mdf", tmp_path / "out.mdf", "--follow", "--idle", "0.1")
    assert result.exit_code == 0
    assert NOTE_NO_BACKGROUND in result.stderr


def test_a_frame_that_is_not_finite_costs_its_image_only(recon, scan, measured, tmp_path):
    path = tmp_path / "growing.mdf"
    template = load_template_of(measured, tmp_path)
    frames = [frame_of(measured, index) for index in range(10)]
    content = frame_content(template, frames[0])
    file = GrowingFile(path, content.metadata, content.columns, content.extras, 100)
    frames[6].data[0, 0, :] = np.nan
    for frame in frames:
        file.append(frame_row(frame, 0))
    result = recon(path, tmp_path / "out.mdf", "--follow", "--idle", "0.1")
    file.close()
    assert result.exit_code == 0, result.output
    assert "5 images, 5 converged, 1 frames failed" in result.output
    assert "Warning: frame 2: " in result.stderr
    with h5py.File(tmp_path / "out.mdf") as handle:
        reports = handle["/reconstruction/_report"].asstr()[()]
    assert [json.loads(report)["frame"] for report in reports] == [0, 1, 3, 4, 5]


def load_template_of(measured, tmp_path):
    write_mdf(tmp_path / "template.mdf", measured)
    acquisition = Acquisition(10e3, 200, 3, 2, np.arange(2), np.arange(20, 60))
    return load_template(tmp_path / "template.mdf", acquisition)


def frame_of(measured, index):
    data = measured.measurement.data[index].copy()
    return RawFrame(index, data, "", bool(measured.measurement.is_background_frame[index]))


def test_a_killed_recon_leaves_what_it_made(swmr_writer, recon, tmp_path):
    path, out = swmr_writer(n_frames=9), tmp_path / "out.mdf"
    recon(tmp_path / "source.mdf", tmp_path / "expected.mdf")
    command = [sys.executable, "-m", "engine.cli", "recon", str(path), str(out), "--follow"]
    command += ["--operators", str(tmp_path / "operators.h5"), "--method", "least-squares"]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE)
    while not out.exists() or count(out) < 5:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert recover_recording(out).n_frames == 5
    expected = images(read_mdf(tmp_path / "expected.mdf"))
    np.testing.assert_allclose(
        images(read_mdf(out)), expected[:5], atol=SINGLE_TOLERANCE * np.abs(expected).max()
    )


def count(path):
    with h5py.File(path) as handle:
        return handle["/acquisition/numFrames"][()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--follow", "--frames", "0"), "leave --frames and --image out"),
        (("--follow", "--image", "x.png"), "leave --frames and --image out"),
        (("--idle", "3"), "--idle has a meaning with --follow only"),
        (("--follow", "--idle", "0"), "--idle"),
    ],
)
def test_options_without_a_meaning_are_refused(recon, tmp_path, options, message):
    result = recon(tmp_path / "m.mdf", tmp_path / "out.mdf", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out.mdf").exists()


def test_nothing_is_overwritten_and_nothing_left(recon, tmp_path):
    (tmp_path / "out.mdf").write_text("precious")
    result = recon(tmp_path / "m.mdf", tmp_path / "out.mdf", "--follow", "--idle", "0.1")
    assert (result.exit_code, "expected a new file" in result.stderr) == (2, True)
    assert (tmp_path / "out.mdf").read_text() == "precious"
    assert recon(tmp_path / "m.mdf", tmp_path / "new.mdf", "--follow", "--idle", "0.1").exit_code == 2
    assert {path.name for path in tmp_path.iterdir()} == {"out.mdf", "operators.h5"}
