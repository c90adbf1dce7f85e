"""The page on operating names the metrics that exist, and the systemd unit is one."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from engine.live.loop.counters import Counters
from engine.live.loop.live_image import BackgroundState
from engine.live.service.logs import FIXED_KEYS, RateLimit
from engine.live.service.metrics import LiveMetrics
from engine.live.service.state import Health, ServiceState
from engine.live.service.status_server import CONNECTION_SECONDS, CONNECTIONS, LINE_BYTES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
UNIT = ROOT / "packaging" / "deqmpi-engine.service"

STATE = ServiceState(
    state="running",
    policy="latest",
    deadline_ms=43.0,
    method="deq",
    model="fast",
    operators_sha256="0" * 64,
    counters=Counters(),
    background=BackgroundState(1, 1.0, 1.0, 1.0),
    recording={"state": "recording"},
    swap={"state": "done"},
    last_image_age_s=1.0,
    oldest_wait_s=1.0,
)


def exposed() -> dict[str, str]:
    """Name and type of every metric, from the lines that declare them."""
    declared = re.findall(r"^# TYPE (\S+) (\S+)$", LiveMetrics(lambda: STATE).exposition().decode(), re.M)
    return {name: kind for name, kind in declared if not name.endswith("_created")}


def test_every_metric_is_documented_with_its_type() -> None:
    rows = re.findall(r"^\| `(deqmpi_\w+)` \| (\w+)", PAGE, re.MULTILINE)
    assert dict(rows) == exposed()
    assert len(rows) == len(dict(rows))


def test_alerts_use_metrics_that_exist() -> None:
    (alerts,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    used = set(re.findall(r"deqmpi_\w+", alerts))
    assert used
    assert used <= exposed().keys()


def test_lines_shown_are_of_the_form_that_is_written() -> None:
    lines = [json.loads(line) for line in re.findall(r"```json\n(.*?)\n```", PAGE)]
    assert [tuple(line)[:3] for line in lines[:2]] == [FIXED_KEYS] * 2
    assert lines[2].keys() == Health(True, (), ()).to_dict().keys()


def test_limits_are_those_of_the_code() -> None:
    assert f"at most {RateLimit().lines} lines are written in {RateLimit().seconds:g} seconds" in PAGE
    assert f"headers of up to {LINE_BYTES // 1024} kB" in PAGE
    assert f"request, has {CONNECTION_SECONDS:g} seconds, and {CONNECTIONS} are open at a time" in PAGE


def test_unit_asks_for_no_more_than_it_needs() -> None:
    settings = dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE))
    assert settings["Type"] == "notify"
    assert settings["ExecStart"].split()[1:3] == ["serve", "--config"]
    assert settings["Restart"] == "on-failure"
    assert settings["User"] not in ("", "root", "0")
    assert settings["NoNewPrivileges"] == "true"
    assert settings["CapabilityBoundingSet"] == settings["AmbientCapabilities"] == ""
    assert int(settings["WatchdogSec"]) > 0


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_unit_is_valid(tmp_path: Path) -> None:
    # The program is not installed there on the machine of a test.
    text = UNIT.read_text(encoding="utf-8").replace("/opt/deq-mpi/bin/engine", "/bin/true")
    copy = tmp_path / UNIT.name
    copy.write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
