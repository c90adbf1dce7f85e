"""Killed processes and full disks: what was written is there afterwards, and every frame is accounted for."""

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest

from engine.live.recording.finish import recover_folder
from engine.mpi.mdf import read_mdf

ROOT = Path(__file__).parents[4]
SERVICE = Path(__file__).with_name("recording_service.py")
PATIENCE_S = 60.0  # of the tests, for processes on a busy machine


def wait_until(condition):
    """Wait for something that another process does."""
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.002)


def check_frames(folder, scanner):
    """Return how many frames the MDF files of a folder hold, which must be the first ones, and intact."""
    number = 0
    for path in sorted(folder.glob("*-raw.mdf")):
        with h5py.File(path) as handle:
            assert "/_recording" not in handle
            sequences = handle["/measurement/_sequence"][()].tolist()
        measurement = read_mdf(path).measurement
        assert sequences == list(range(number, number + len(sequences)))
        for sequence, data, is_background in zip(
            sequences, measurement.data, measurement.is_background_frame, strict=True
        ):
            expected = scanner.frame(sequence)
            assert np.array_equal(data, expected.data)
            assert is_background == expected.is_background
        number += len(sequences)
    return number


def test_a_killed_writer_costs_the_frame_in_flight(scanner, open_recorder, tmp_path):
    rng = np.random.default_rng(3)
    recorder = open_recorder()
    for number in range(10):
        recorder.frame(scanner.frame(number), 0)
    wait_until(lambda: recorder.state().frames_written == 10)
    recorder.frame(scanner.frame(10), 0)
    time.sleep(rng.uniform(0, 0.001))
    os.kill(recorder.writer_process_id, signal.SIGKILL)
    wait_until(lambda: recorder.state().status == "stopped")
    assert "exit code -9" in recorder.state().reason
    assert not recorder.frame(scanner.frame(11), 0)
    assert not recorder.image(scanner.image(11))
    recorder.close()
    state = recorder.state()
    n_frames = check_frames(tmp_path / "recordings", scanner)
    assert n_frames in (10, 11)
    assert (state.frames_in, state.frames_written, state.frames_lost) == (12, n_frames, 12 - n_frames)
    assert (state.images_in, state.images_lost) == (1, 1)
    assert state.lost == {"writer-died": state.frames_lost + 1}
    assert state.unfinished == ()
    assert state.status == "closed"


def test_frames_that_waited_for_a_killed_writer_are_counted_as_lost(scanner, open_recorder, tmp_path):
    recorder = open_recorder(queue_frames=30)
    recorder.frame(scanner.frame(0), 0)
    recorder.frame(scanner.frame(1), 0)
    wait_until(lambda: recorder.state().frames_written == 2)
    os.kill(recorder.writer_process_id, signal.SIGSTOP)  # it hangs: the queue fills, nobody waits for it
    accepted = sum(recorder.frame(scanner.frame(number), 0) for number in range(2, 200))
    assert 30 <= accepted < 198
    state = recorder.state()
    assert (state.status, state.frames_written) == ("recording", 2)
    assert state.lost == {"queue-full": 198 - accepted}
    os.kill(recorder.writer_process_id, signal.SIGKILL)
    wait_until(lambda: recorder.state().status == "stopped")
    recorder.close()
    state = recorder.state()
    assert check_frames(tmp_path / "recordings", scanner) == state.frames_written
    assert state.frames_in == state.frames_written + state.frames_lost == 200


def start_service(folder, scanner, n_frames):
    stated = asdict(scanner.acquisition)
    stated |= {name: stated[name].tolist() for name in ("channels", "bins")}
    return subprocess.Popen(
        [sys.executable, str(SERVICE), str(folder), str(scanner.template), json.dumps(stated), str(n_frames)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
    )


def is_alive(process_id):
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill_service(folder, scanner, rng, *, with_writer):
    """Kill a service that records in lock step, after some frames; return how many it knew to be written."""
    process = start_service(folder, scanner, 10_000)
    writer = int(process.stdout.readline())
    n_lines = rng.integers(1, 40)
    known = [int(process.stdout.readline()) for _ in range(n_lines)][-1]
    time.sleep(rng.uniform(0, 0.003))
    victims = [writer, process.pid] if rng.random() < 0.5 else [process.pid, writer]
    for victim in victims if with_writer else [process.pid]:
        os.kill(victim, signal.SIGKILL)
    known = max([known, *(int(line) for line in process.stdout.read().split())])
    process.wait()
    process.stdout.close()
    wait_until(lambda: not is_alive(writer))
    # A process of several threads is a zombie before the last of them has let go of the files.
    wait_until(lambda: all(is_free(path) for path in folder.glob("*.mdf")))
    return known


def is_free(path):
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))])
def test_a_killed_service_leaves_finished_files(scanner, tmp_path, seed):
    known = kill_service(tmp_path, scanner, np.random.default_rng(seed), with_writer=False)
    assert check_frames(tmp_path, scanner) in (known, known + 1)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "seed", [*range(2), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 60))]
)
def test_a_killed_service_and_writer_leave_files_to_recover(scanner, tmp_path, seed):
    known = kill_service(tmp_path, scanner, np.random.default_rng(seed), with_writer=True)
    recover_folder(tmp_path)
    assert check_frames(tmp_path, scanner) in (known, known + 1)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 40))])
def test_a_writer_killed_while_it_finishes_loses_nothing(scanner, open_recorder, tmp_path, seed):
    rng = np.random.default_rng(seed)
    recorder = open_recorder(frames_per_file=50)
    for number in range(200):
        assert recorder.frame(scanner.frame(number), 0)
    wait_until(lambda: recorder.state().frames_written == 200)
    closing = threading.Thread(target=recorder.close)
    closing.start()
    time.sleep(rng.uniform(0, 0.05))
    if is_alive(recorder.writer_process_id):
        os.kill(recorder.writer_process_id, signal.SIGKILL)
    closing.join()
    state = recorder.state()
    assert (state.frames_written, state.frames_lost, state.unfinished) == (200, 0, ())
    assert check_frames(tmp_path / "recordings", scanner) == 200
    assert not list((tmp_path / "recordings").glob(".*"))


def test_the_next_recorder_recovers_what_another_left(scanner, open_recorder, tmp_path):
    folder = tmp_path / "recordings"
    known = kill_service(folder, scanner, np.random.default_rng(9), with_writer=True)
    recorder = open_recorder()
    other = open_recorder()  # two at once, on the same files
    recorder.close()
    other.close()
    assert check_frames(folder, scanner) in (known, known + 1)
    assert recorder.state().frames_written == 0  # it does not claim them


def test_a_disk_that_becomes_full_stops_recording_until_there_is_space(scanner, open_recorder, tmp_path):
    recorder = open_recorder(frames_per_file=100_000, retry_s=0.0)
    for number in range(10):
        recorder.frame(scanner.frame(number), 0)
        recorder.image(scanner.image(number))
    wait_until(lambda: recorder.state().images_written == 10)
    (path,) = (tmp_path / "recordings").glob("*-raw.mdf")
    unlimited = resource.prlimit(recorder.writer_process_id, resource.RLIMIT_FSIZE)
    with h5py.File(path) as handle:
        dataset = handle["/measurement/data"]
        here = dataset.id.get_offset() + 10 * dataset[0].nbytes  # where the next frame begins
    resource.prlimit(recorder.writer_process_id, resource.RLIMIT_FSIZE, (here, unlimited[1]))
    recorder.frame(scanner.frame(10), 0)
    wait_until(lambda: recorder.state().frames_lost == 1)
    assert recorder.state().lost == {"disk": 1}
    assert is_alive(recorder.writer_process_id)
    resource.prlimit(recorder.writer_process_id, resource.RLIMIT_FSIZE, unlimited)
    wait_until(lambda: recorder.state().status == "recording")
    recorder.frame(scanner.frame(11), 0)
    recorder.close()
    state = recorder.state()
    assert (state.frames_in, state.frames_written, state.frames_lost) == (12, 11, 1)
    assert (state.images_written, state.images_lost, state.unfinished) == (10, 0, ())
    first, second = sorted((tmp_path / "recordings").glob("*-raw.mdf"))
    assert np.array_equal(read_mdf(first).measurement.data, [scanner.frame(n).data for n in range(10)])
    assert np.array_equal(read_mdf(second).measurement.data, [scanner.frame(11).data])


def test_too_little_free_space_stops_recording(scanner, open_recorder, tmp_path):
    recorder = open_recorder(min_free_mb=1e9)
    state = recorder.state()
    assert state.status == "stopped"
    assert "expected at least 1000000000; free some" in state.reason
    assert state.free_bytes == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.5)
    assert not recorder.frame(scanner.frame(1), 0)
    recorder.close()
    assert recorder.state().lost == {"stopped": 1}
    assert list((tmp_path / "recordings").iterdir()) == []


FULL_DISK = """
import subprocess, sys
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", sys.argv[1]], check=True)
subprocess.run([sys.executable, *sys.argv[2:]], check=True)
"""

FILL = """
import json, shutil, sys, time
import numpy as np
from pathlib import Path
from engine.measurement.raw_frame import RawFrame
from engine.live.recording.recorder import Recorder
from engine.live.recording.config import RecordingConfig
from engine.operators.operators import Acquisition
folder, template, stated = sys.argv[1:]
values = json.loads(stated)
lists = {name: np.array(values[name]) for name in ("channels", "bins")}
config = RecordingConfig(Path(folder), Path(template), min_free_mb=0.0)
recorder = Recorder(config, Acquisition(**(values | lists)))
start = np.arange(3 * 2 * 101).reshape(3, 2, 101)
number = 0
while recorder.state().status == "recording":
    data = ((start + number) + 1j * (number - start)).astype(np.complex64)
    recorder.frame(RawFrame(number, data, "run", number % 7 == 0, None, 0), 0)
    number += 1
    while recorder.state().frames_written + recorder.state().frames_lost < number:
        time.sleep(0.001)
recorder.close()
state = recorder.state().to_dict()
(path,) = Path(folder).glob("*-raw.mdf")
shutil.copy(path, sys.argv[2] + ".copy.mdf")
print(json.dumps(state))
"""


def test_a_really_full_disk(scanner, tmp_path):
    """A file system of 3 MB that holds nothing else; needs user namespaces."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system allows no mounts in user namespaces")
    disk = tmp_path / "disk"
    disk.mkdir()
    template = tmp_path / "template.mdf"
    shutil.copy(scanner.template, template)
    stated = asdict(scanner.acquisition)
    stated |= {name: stated[name].tolist() for name in ("channels", "bins")}
    inner = ["-c", FILL, str(disk), str(template), json.dumps(stated)]
    ran = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", FULL_DISK, str(disk), *inner],
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    state = json.loads(ran.stdout)
    assert "No space left on device" in state["reason"]
    assert "0 bytes are free on its disk, expected" in state["reason"]  # of the copy
    assert state["frames_in"] == state["frames_written"] + state["frames_lost"]
    assert state["lost"] == {"disk": 1}
    saved = tmp_path / "saved"
    saved.mkdir()
    shutil.move(f"{template}.copy.mdf", saved / "0-raw.mdf")
    recover_folder(saved)
    assert check_frames(saved, scanner) == state["frames_written"] > 100
    assert len(state["unfinished"]) == 1  # no space for the copy
