"""The configuration of a service: every key known, every value checked, and all of it documented."""

import dataclasses
import io
import re
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.live.loop.loop_config import LoopConfig
from engine.live.recording.config import RecordingConfig
from engine.live.service.live_config import (
    EndpointConfig,
    LiveConfig,
    MethodConfig,
    StatusConfig,
    live_config_toml,
    load_live_config,
)

MINIMAL = '[reconstruction]\noperators = "operators.h5"\n'
RECORDING = '[recording]\ntemplate = "template.mdf"\n'


@pytest.fixture
def load(tmp_path):
    """Read a configuration: load(text)."""

    def read(text):
        path = tmp_path / "live.toml"
        path.write_text(text, encoding="utf-8")
        return load_live_config(path)

    return read


@pytest.mark.parametrize("deadline_ms", [None, 43.0])
def test_a_configuration_is_handed_to_another_process_as_it_is(deadline_ms, tmp_path, monkeypatch):
    pytest.importorskip("tomli_w")
    config = LiveConfig(
        MethodConfig(tmp_path / "operators.h5", "deq", 'a "model"\n', threads="auto", tolerance=1e-3),
        LoopConfig("every-frame", deadline_ms, conversion=((1.0, 0.0), (2.0, -1.0))),
        EndpointConfig("tcp://127.0.0.1:*", max_frame_mb=1.5),
        StatusConfig(port=0),
        RecordingConfig(tmp_path / "recordings", tmp_path / "template.mdf"),
    )
    monkeypatch.setattr("sys.stdin", io.StringIO(live_config_toml(config)))
    assert load_live_config("-") == config


def test_defaults_and_paths_beside_the_file(load, tmp_path):
    config = load(MINIMAL)
    assert config.reconstruction.operators == tmp_path / "operators.h5"
    assert config.loop == LoopConfig()
    assert config.endpoints.frames == "tcp://127.0.0.1:5555"
    assert config.status is None
    assert config.recording is None


def test_every_table(load, tmp_path):
    (tmp_path / "bundle").mkdir()
    config = load(
        MINIMAL
        + """model = "bundle"
threads = "auto"
[loop]
policy = "block-average"
deadline_ms = false
noise_range = [0.1, 9]
conversion = [[1.0, 0.0], [2.0, -1]]
[status]
port = 0
[recording]
folder = "recordings"
template = "template.mdf"
"""
    )
    assert config.reconstruction.settings().model == str(tmp_path / "bundle")
    assert config.reconstruction.settings().threads == "auto"
    assert config.loop.deadline_ms is None
    assert config.loop.noise_range == (0.1, 9)
    assert config.loop.conversion == ((1.0, 0.0), (2.0, -1.0))
    assert config.status.port == 0
    assert config.recording.folder == tmp_path / "recordings"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "missing.*`reconstruction`"),
        ("[reconstruction]\n", "reconstruction: .*missing.*`operators`"),
        ("reconstruction = 3\n", "reconstruction: .*`object`.*`int`"),
        (MINIMAL + "speed = 3\n", "unknown key 'speed'"),
        (MINIMAL + "[lop]\n", "unknown key 'lop'"),
        ("[reconstruction]\noperators = 3\n", r"reconstruction\.operators: .*path as text"),
        (MINIMAL + "threads = 3\n", "threads"),
        (MINIMAL + "threads = true\n", "threads"),
        (MINIMAL + "tolerance = -1.0\n", "tolerance is -1.0"),
        (MINIMAL + '[loop]\npolicy = "newest"\n', "policy is 'newest'"),
        (MINIMAL + "[loop]\nqueue_frames = 0\n", "queue_frames is 0"),
        (MINIMAL + "[loop]\nqueue_frames = 1.5\n", "queue_frames"),
        (MINIMAL + "[loop]\ndeadline_ms = -1\n", "deadline_ms is -1"),
        (MINIMAL + "[loop]\ndeadline_ms = true\n", "deadline_ms"),
        (MINIMAL + "[loop]\ndeadline_ms = 2.0\n", "reserve_ms is 6.0"),
        (MINIMAL + "[loop]\ndeadline_ms = nan\n", "deadline_ms is nan"),
        (MINIMAL + "[loop]\nnoise_range = [2, 1]\n", "noise_range"),
        (MINIMAL + '[loop]\nnoise_range = ["a", 1]\n', "noise_range"),
        (MINIMAL + "[loop]\nnoise_range = 3\n", "noise_range"),
        (MINIMAL + "[loop]\nconversion = [[0.0, 1.0]]\n", "conversion is"),
        (MINIMAL + "[loop]\nconversion = [1.0, 2.0]\n", "conversion"),
        (MINIMAL + '[endpoints]\nframes = "tcp://0.0.0.0:5555"\n', "allow_remote"),
        (MINIMAL + "[endpoints]\nmax_frame_mb = 0\n", "max_frame_mb"),
        (MINIMAL + '[status]\nhost = "0.0.0.0"\n', "allow_remote"),
        (MINIMAL + "[status]\nport = 70000\n", "port is 70000"),
        (MINIMAL + RECORDING + "folder = 3\n", r"recording\.folder: .*path as text"),
        (MINIMAL + RECORDING + "folder = ''\n", r"recording\.folder: .*path as text"),
        (MINIMAL + RECORDING + "folder = 'f'\nqueue_frames = true\n", r"recording\.queue_frames: .*`int`"),
        (MINIMAL + RECORDING + "folder = 'f'\nretry_s = '1'\n", r"recording\.retry_s: .*`float`"),
        ("[reconstruction\n", "cannot be read as TOML"),
    ],
)
def test_what_is_wrong_is_said(load, text, message):
    with pytest.raises(ConfigError, match=message):
        load(text)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        load_live_config(tmp_path / "live.toml")


VALUES = st.one_of(
    st.booleans(), st.integers(-3, 10**6), st.floats(), st.text(max_size=5), st.lists(st.floats(), max_size=3)
)


@given(key=st.sampled_from([field.name for field in dataclasses.fields(LoopConfig)]), value=VALUES)
@settings(max_examples=200, deadline=None)
def test_any_value_is_accepted_or_a_configuration_error(tmp_path_factory, key, value):
    path = tmp_path_factory.mktemp("any") / "live.toml"
    path.write_text(f"{MINIMAL}[loop]\n{key} = {toml(value)}\n", encoding="utf-8")
    try:
        tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError:
        return
    try:
        assert isinstance(load_live_config(path).loop, LoopConfig)
    except ConfigError as error:
        message = str(error)
    else:
        message = key
    assert key in message or "reserve_ms" in message  # which the deadline has to exceed


def toml(value):
    """Write a value as TOML does."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, str):
        return '"' + re.sub(r"[^ -~]|[\"\\]", "?", value) + '"'
    return repr(value)
