"""The whole service over its sockets: frames in, images out, faults survived, the account exact."""

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zmq

from engine.errors import ConfigError, DeqMpiError, LiveError
from engine.live.service.live_config import load_live_config
from engine.live.service.service import LiveService
from engine.live.wire.messages import (
    IMAGE_TOPIC,
    STATUS_TOPIC,
    decode_image,
    decode_status,
    encode_frame,
)
from engine.mpi.mdf import read_mdf, write_mdf
from engine.operators.operators_file import save_operators

WAIT_S = 30.0
"""Longest wait for something that is sure to happen."""

CONFIG = """
[reconstruction]
operators = "operators.h5"
method = "least-squares"
[loop]
policy = "every-frame"
deadline_ms = false
queue_frames = 200
[endpoints]
frames = "tcp://127.0.0.1:*"
images = "tcp://127.0.0.1:*"
max_frame_mb = 0.1
"""

RECORDING = """
[recording]
folder = "recordings"
template = "template.mdf"
min_free_mb = 1.0
"""


class Client:
    """A scanner and a subscriber of one service."""

    def __init__(self, service):
        self._context = zmq.Context()
        self.scanner = self._context.socket(zmq.PUSH)
        self.scanner.linger = 0
        self.scanner.connect(service.frames_endpoint)
        self.screen = self._context.socket(zmq.SUB)
        self.screen.linger = 0
        for topic in (IMAGE_TOPIC, STATUS_TOPIC):
            self.screen.subscribe(topic)
        self.screen.connect(service.images_endpoint)
        self.service = service
        self._wait_for_subscription()

    def _wait_for_subscription(self):
        deadline = time.monotonic() + WAIT_S
        while not self.screen.poll(20):
            self.service.publish_state()
            assert time.monotonic() < deadline

    def push(self, *frames):
        for frame in frames:
            self.scanner.send_multipart(encode_frame(frame))

    def image(self):
        """The next image."""
        while True:
            assert self.screen.poll(1e3 * WAIT_S)
            parts = self.screen.recv_multipart()
            if parts[0] == IMAGE_TOPIC:
                return decode_image(parts)

    def status(self, condition):
        """The state of the service once it meets a condition."""
        deadline = time.monotonic() + WAIT_S
        while True:
            state = self.service.state().to_dict()
            if condition(state):
                return state
            assert time.monotonic() < deadline, state
            time.sleep(0.01)

    def close(self):
        self._context.destroy(linger=0)


@pytest.fixture
def folder(tmp_path, operators, scan):
    save_operators(tmp_path / "operators.h5", operators)
    write_mdf(tmp_path / "template.mdf", scan.calibration())
    (tmp_path / "live.toml").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "recordings").mkdir()
    return tmp_path


@pytest.fixture
def start(folder):
    """Start a service: start(more configuration) -> (service, client, events)."""
    opened = []

    def begin(more="", **replacements):
        text = CONFIG + more
        for old, new in replacements.items():
            text = text.replace(old, new)
        (folder / "live.toml").write_text(text, encoding="utf-8")
        events = []
        service = LiveService(load_live_config(folder / "live.toml"), events.append)
        client = Client(service)
        opened.extend([client, service])
        return service, client, events

    yield begin
    for each in opened:
        each.close()


def test_images_come_out_with_report_and_account(start, raw, image):
    _, client, _ = start()
    client.push(*(raw(number) for number in range(4)), raw(4, image, stream="s"))
    found = client.image()
    assert found.image.shape == (1, 4, 5)
    header = found.header
    assert header["report"]["sequence"] == 4
    assert header["report"]["method"] == "least-squares"
    assert header["grid"] == {"size": [5, 4, 1], "field_of_view": [0.01, 0.008, 0.002], "center": [0.0] * 3}
    assert header["counters"]["frames_in"] == header["counters"]["images_out"] == 1
    assert header["report"]["flags"] == ["no-background"] or header["background"]["n_frames"] == 4


def test_status_messages(start, folder, operators):
    service, client, _ = start()
    service.publish_state()
    while (parts := client.screen.recv_multipart())[0] != STATUS_TOPIC:
        pass
    status = decode_status(parts)
    assert status["state"] == "running"
    assert (status["policy"], status["deadline_ms"], status["method"]) == (
        "every-frame",
        None,
        "least-squares",
    )
    assert status["operators_sha256"] == operators.source_sha256
    assert json.dumps(status, allow_nan=False)


def test_what_is_no_frame_is_counted_by_reason_and_harms_nothing(start, raw, image):
    _, client, events = start()
    good = encode_frame(raw(0, image))
    header = json.loads(good[0])

    def send(change, data=good[1], more=()):
        client.scanner.send_multipart([json.dumps(header | change).encode(), data, *more])

    client.scanner.send(b"{}")
    client.scanner.send_multipart([b"no json", b""])
    send({"version": 2})
    send({"kind": "deq-mpi-image"})
    send({"dtype": "object"})
    send({"shape": [3, 2, 100]})
    send({}, data=good[1][:-1])
    send({"path": "/etc/passwd"})
    send({"sequence": -1})
    send({}, more=[b"a third part"])
    client.scanner.send_multipart(good)
    assert client.image().header["report"]["sequence"] == 0
    rejected = client.status(lambda _: True)["counters"]["rejected"]
    assert rejected == {
        "parts": 2, "header": 1, "version": 1, "kind": 1, "dtype": 1, "size": 2, "key": 1, "value": 1
    }  # fmt: skip
    assert sum(event.name == "message-rejected" for event in events) == 10


def test_frames_that_repeat_come_late_or_do_not_fit(start, raw, image):
    _, client, _ = start()
    bad = raw(5, image).data.copy()
    bad[0, 0, 20] = np.nan
    client.push(raw(3, image))
    client.image()
    client.push(
        raw(3, image),
        raw(1, image),
        raw(4, image, data=raw(4, image).data[:, :1]),
        raw(5, image, data=bad),
        raw(6, image),
    )
    assert client.image().header["report"]["sequence"] == 6
    counters = client.status(lambda state: state["counters"]["in_flight"] == 0)["counters"]
    assert counters["dropped"] == {"duplicate": 1, "out-of-order": 1, "mismatch": 1, "not-finite": 1}
    assert counters["frames_in"] == 6 == counters["images_out"] + 4


def test_a_subscriber_that_stops_reading_slows_nothing_down(start, raw, image):
    service, client, _ = start()
    stuck = client._context.socket(zmq.SUB)
    stuck.rcvhwm = 1
    stuck.subscribe(b"")
    stuck.connect(service.images_endpoint)
    for number in range(150):
        client.push(raw(number, image, seed=0))
        assert client.image().header["report"]["sequence"] == number
    assert client.status(lambda _: True)["counters"]["images_out"] == 150
    stuck.close()


def test_operators_are_exchanged_between_two_frames(start, folder, operators, raw, image):
    service, client, _ = start()
    client.push(raw(0, image, seed=0))
    first = client.image().image
    save_operators(folder / "operators.h5", replace(operators, scale=2 * operators.scale))
    service.swap(folder / "live.toml")
    client.status(lambda state: state["swap"] is not None and state["swap"]["state"] == "waiting")
    for number in range(1, 9):
        client.push(raw(number, image, seed=0))
        np.testing.assert_allclose(2 * client.image().image, first, rtol=1e-5)
    client.status(lambda state: state["swap"]["state"] == "accepted")


@pytest.mark.parametrize("damage", ["garbage", "cut", "flipped", "missing", "configuration"])
def test_damaged_operators_leave_the_old_ones_in_use(start, folder, raw, image, damage):
    service, client, _ = start()
    client.push(raw(0, image, seed=0))
    first = client.image().image
    path = folder / "operators.h5"
    content = bytearray(path.read_bytes())
    if damage == "garbage":
        path.write_bytes(b"\x00garbage" * 100)
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    elif damage == "missing":
        path.unlink()
    else:
        (folder / "live.toml").write_text("[reconstruction]\noperator = 1\n", encoding="utf-8")
    service.swap(folder / "live.toml")
    state = client.status(lambda state: state["swap"] is not None)
    assert state["swap"]["state"] == "refused"
    assert state["swap"]["reason"]
    client.push(raw(1, image, seed=0))
    np.testing.assert_array_equal(client.image().image, first)


def test_recordings_hold_every_frame_and_image(start, folder, raw, image):
    service, client, _ = start(RECORDING)
    client.push(*(raw(number) for number in range(3)), *(raw(number, image) for number in range(3, 8)))
    images = [client.image().image for _ in range(5)]
    client.close()
    service.close()
    files = [read_mdf(path) for path in sorted((folder / "recordings").glob("*.mdf"))]
    (measurement,) = [file for file in files if file.measurement is not None]
    (reconstruction,) = [file for file in files if file.reconstruction is not None]
    np.testing.assert_array_equal(
        measurement.measurement.data, np.stack([raw(n, None if n < 3 else image).data for n in range(8)])
    )
    assert measurement.measurement.is_background_frame.tolist() == [True] * 3 + [False] * 5
    np.testing.assert_array_equal(reconstruction.reconstruction.data[..., 0], np.stack(images).reshape(5, 20))


def test_a_recording_that_fails_does_not_end_the_images(start, folder, raw, image):
    _, client, _ = start(RECORDING.replace("min_free_mb = 1.0", "min_free_mb = 1e12"))
    client.push(raw(0, image), raw(1, image))
    assert [client.image().header["report"]["sequence"] for _ in range(2)] == [0, 1]
    recording = client.status(lambda state: state["recording"]["state"] == "stopped")["recording"]
    assert recording["reason"]


def test_frames_that_wait_are_finished_when_the_service_ends(start, raw, image):
    service, client, events = start()
    client.push(*(raw(number, image) for number in range(20)))
    client.status(lambda state: state["counters"]["frames_in"] == 20)
    client.close()
    service.close()
    (closed,) = [event for event in events if event.name == "loop-closed"]
    assert (closed.fields["images_out"], closed.fields["in_flight"]) == (20, 0)


def test_endpoints_are_loopback_unless_allowed(folder):
    for line in ('frames = "tcp://0.0.0.0:5555"', 'images = "tcp://*:5556"'):
        (folder / "live.toml").write_text(
            f'[reconstruction]\noperators = "operators.h5"\n[endpoints]\n{line}\n', encoding="utf-8"
        )
        with pytest.raises(ConfigError, match="allow_remote"):
            load_live_config(folder / "live.toml")


def test_a_taken_endpoint_is_an_error_and_nothing_stays_open(start, folder):
    service, _, _ = start()
    text = CONFIG.replace('frames = "tcp://127.0.0.1:*"', f'frames = "{service.frames_endpoint}"')
    (folder / "live.toml").write_text(text, encoding="utf-8")
    threads = threading.active_count()
    with pytest.raises(LiveError, match="in use"):
        LiveService(load_live_config(folder / "live.toml"), lambda _: None)
    assert threading.active_count() <= threads


def test_missing_operators_are_an_error(folder):
    Path(folder / "operators.h5").unlink()
    with pytest.raises(DeqMpiError, match=r"operators\.h5 is not a file"):
        LiveService(load_live_config(folder / "live.toml"), lambda _: None)
