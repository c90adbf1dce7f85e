"""The service is killed while it records: what was recorded is there, and the next service starts."""

import time

import numpy as np
import pytest
import zmq

from engine.live.loop.loop_config import LoopConfig
from engine.live.recording.config import RecordingConfig
from engine.live.recording.finish import recover_folder
from engine.live.service.live_config import EndpointConfig, LiveConfig, MethodConfig
from engine.live.service.service_process import ServiceProcess
from engine.live.wire.messages import IMAGE_TOPIC, STATUS_TOPIC, decode_status, encode_frame
from engine.mpi.mdf import read_mdf, write_mdf
from engine.operators.operators_file import save_operators

WAIT_S = 60.0
"""Longest wait for something that is sure to happen."""

N_FRAMES = 30


@pytest.fixture
def folder(tmp_path, operators, scan):
    save_operators(tmp_path / "operators.h5", operators)
    write_mdf(tmp_path / "template.mdf", scan.calibration())
    (tmp_path / "recordings").mkdir()
    return tmp_path


@pytest.fixture
def config(folder):
    return LiveConfig(
        MethodConfig(folder / "operators.h5", "least-squares"),
        LoopConfig("every-frame", deadline_ms=None),
        EndpointConfig("tcp://127.0.0.1:*", "tcp://127.0.0.1:*"),
        recording=RecordingConfig(folder / "recordings", folder / "template.mdf", min_free_mb=1.0),
    )


def wait_until_finished(recordings):
    """Wait until the writing process, which outlives the service, has made ordinary files."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        recover_folder(recordings)  # leaves alone what is still being written
        try:
            return [read_mdf(path) for path in sorted(recordings.glob("*.mdf"))]
        except Exception:
            time.sleep(0.05)
    raise AssertionError("the recording was not finished")


def test_a_killed_service_loses_at_most_the_frame_in_flight(folder, config, raw, image):
    frames = [raw(number, image) for number in range(N_FRAMES)]
    with ServiceProcess(config) as service, zmq.Context() as context:
        scanner, screen = context.socket(zmq.PUSH), context.socket(zmq.SUB)
        for each in (scanner, screen):
            each.linger = 0
        scanner.connect(service.frames_endpoint)
        screen.subscribe(IMAGE_TOPIC)
        screen.subscribe(STATUS_TOPIC)
        screen.connect(service.images_endpoint)
        assert screen.poll(1e3 * WAIT_S)  # the state, so the subscription has arrived
        for frame in frames[:-1]:
            scanner.send_multipart(encode_frame(frame))
            while screen.poll(1e3 * WAIT_S) and screen.recv_multipart()[0] != IMAGE_TOPIC:
                pass
        n_written = 0
        while n_written < N_FRAMES - 1:
            assert screen.poll(1e3 * WAIT_S)
            parts = screen.recv_multipart()
            if parts[0] == STATUS_TOPIC:
                recording = decode_status(parts)["recording"]
                n_written = min(recording["frames_written"], recording["images_written"])
        scanner.send_multipart(encode_frame(frames[-1]))
        service.process.kill()
        service.process.wait()
        scanner.close()
        screen.close()
    files = wait_until_finished(folder / "recordings")
    (measurement,) = [file.measurement for file in files if file.measurement is not None]
    (images,) = [file.reconstruction for file in files if file.reconstruction is not None]
    assert N_FRAMES - 1 <= len(measurement.data) <= N_FRAMES
    assert N_FRAMES - 1 <= len(images.data) <= N_FRAMES
    for stored, frame in zip(measurement.data, frames, strict=False):
        np.testing.assert_array_equal(stored, frame.data)
    with ServiceProcess(config) as again:
        assert again.process.poll() is None
