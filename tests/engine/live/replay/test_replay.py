"""A replay accounts for every frame that it sent, whatever the policy, and so does the command."""

import json
import threading

import numpy as np
import pytest
from click.testing import CliRunner

from engine.cli import main
from engine.errors import LiveError
from engine.live.loop.loop_config import LoopConfig
from engine.live.replay.player import measured_frames
from engine.live.replay.replay import replay
from engine.live.service.live_config import EndpointConfig, LiveConfig, MethodConfig
from engine.live.service.service import LiveService
from engine.live.service.service_process import ServiceProcess
from engine.mpi.grid import Grid
from engine.mpi.mdf import write_mdf
from engine.mpi.simulation.scan import simulate_calibration, simulate_moving_measurement
from engine.mpi.simulation.scanner import FflScanner
from engine.operators.operators_file import save_operators

FREE_ENDPOINTS = EndpointConfig("tcp://127.0.0.1:*", "tcp://127.0.0.1:*")

RATE, SECONDS = 300.0, 0.5


@pytest.fixture
def measured(scan, image, raw):
    frames = np.stack([raw(0).data, raw(1).data, raw(2, image).data, raw(3, image).data])
    return measured_frames(scan.measurement(frames, np.array([True, True, False, False])))


@pytest.mark.parametrize("policy", ["latest", "block-average", "every-frame"])
def test_every_frame_that_was_sent_is_accounted_for(tmp_path, operators, measured, policy):
    save_operators(tmp_path / "operators.h5", operators)
    seen = []
    method = MethodConfig(tmp_path / "operators.h5", "least-squares")
    config = LiveConfig(method, LoopConfig(policy, queue_frames=2), FREE_ENDPOINTS)
    service = LiveService(config, lambda _: None)
    # The command publishes the state from its main thread; here that is another one.
    stop = threading.Event()
    publisher = threading.Thread(
        target=lambda: [service.publish_state() for _ in iter(lambda: stop.wait(0.05), True)]
    )
    publisher.start()
    try:
        report = replay(
            measured,
            service.frames_endpoint,
            service.images_endpoint,
            rate=RATE,
            seconds=SECONDS,
            on_second=seen.append,
        )
    finally:
        stop.set()
        publisher.join()
        service.close()
    assert report.frames_sent == report.frames_in == round(RATE * SECONDS)
    assert report.frames_in == report.images_out + report.averaged + report.dropped + report.in_flight
    assert report.is_balanced
    assert report.in_flight == 0
    assert report.dropped == sum(report.dropped_by_reason.values())
    assert report.policy == policy
    assert 0 < report.p50_ms <= report.p99_ms <= report.p999_ms <= report.max_ms
    assert all(counters.is_balanced for counters in seen)
    if policy != "block-average":
        assert report.averaged == 0


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Operators and a moving phantom of a small scanner on which the networks work."""
    folder = tmp_path_factory.mktemp("scan")
    scanner = FflScanner(
        grid=Grid((8, 6, 1), (0.052, 0.026, 0.002)), n_angles=20, period=0.002, noise_voltage=1e-4
    )
    write_mdf(folder / "system-matrix.mdf", simulate_calibration(scanner))
    write_mdf(folder / "measurement.mdf", simulate_moving_measurement(scanner, 8, 25.0).file)
    done = CliRunner().invoke(
        main, ["calibrate", str(folder / "system-matrix.mdf"), str(folder / "operators.h5")]
    )
    assert done.exit_code == 0, done.output
    return folder


def test_the_command_plays_a_file_through_a_service_of_its_own(files, tmp_path):
    arguments = ["replay", str(files / "measurement.mdf"), "--operators", str(files / "operators.h5")]
    options = ["--seconds", "1", "--policy", "every-frame", "--threads", "1", "--deadline", "0"]
    done = CliRunner().invoke(main, [*arguments, *options, "--report", str(tmp_path / "report.json")])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["frames_in"] == 46
    assert report["is_balanced"]
    wanted = {"frames_in", "images_out", "averaged", "dropped", "in_flight", "late"}
    assert wanted | {"p50_ms", "p99_ms", "p999_ms"} <= report.keys()
    assert "46 frames in = 46 images + 0 averaged + 0 dropped + 0 in flight" in done.output


def test_a_service_that_does_not_start_says_why(tmp_path):
    with pytest.raises(LiveError, match=r"none\.h5 is not a file"):
        ServiceProcess(LiveConfig(MethodConfig(tmp_path / "none.h5"), endpoints=FREE_ENDPOINTS))
