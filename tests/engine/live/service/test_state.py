"""Alive, ready, degraded: every rule on its own."""

import json
import re
from dataclasses import replace

import pytest

from engine.live.loop.counters import Counters
from engine.live.loop.live_image import BackgroundState
from engine.live.service.state import HealthLimits, ServiceState, liveness, readiness
from engine.live.wire.messages import decode_status, encode_status

STATE = ServiceState(
    state="running",
    policy="latest",
    deadline_ms=43.0,
    method="deq",
    model="fast",
    operators_sha256="ab" * 32,
    counters=Counters(frames_in=3, images_out=2, in_flight=1),
    background=BackgroundState(5, 20.0, 1.0, 0.1),
    recording={"state": "recording", "file": "run.mdf"},
    uptime_s=12.5,
    last_image_age_s=0.02,
    oldest_wait_s=0.01,
)
LIMITS = HealthLimits(stuck_after_s=5.0, background_old_after_s=60.0)


def test_all_is_well() -> None:
    for health in (liveness(STATE, LIMITS), readiness(STATE, LIMITS)):
        assert health.to_dict() == {"ok": True, "reasons": [], "degraded": []}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"is_loop_alive": False}, "loop has ended"),
        ({"oldest_wait_s": 5.1}, r"in flight for 5\.1 s"),
    ],
)
def test_what_ends_liveness_ends_readiness(change: dict, words: str) -> None:
    for health in (liveness(replace(STATE, **change), LIMITS), readiness(replace(STATE, **change), LIMITS)):
        assert not health.ok
        assert len(health.reasons) == 1
        assert re.search(words, health.reasons[0])


@pytest.mark.parametrize("wait", [None, 0.0, 5.0])
def test_waiting_up_to_the_limit_is_no_standstill(wait: float | None) -> None:
    assert liveness(replace(STATE, oldest_wait_s=wait), LIMITS).ok


@pytest.mark.parametrize("state", ["starting", "stopping"])
def test_alive_before_and_after_being_ready(state: str) -> None:
    found = replace(STATE, state=state)
    assert liveness(found, LIMITS).ok
    assert not readiness(found, LIMITS).ok


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recording": {"state": "stopped", "reason": "no space left"}}, "recording stopped: no space left"),
        ({"recording": {"state": "stopped"}}, "recording stopped: no reason given"),
        ({"background": BackgroundState(5, 61.0)}, "background old: 61 s; expected at most 60 s"),
        ({"swap": {"state": "rolled-back", "reason": "hash"}}, "swap rolled-back: hash"),
    ],
)
def test_what_is_degraded_is_told_and_images_go_on(change: dict, words: str) -> None:
    found = replace(STATE, **change)
    for health in (liveness(found, LIMITS), readiness(found, LIMITS)):
        assert health.ok
        assert health.degraded == (words,)


@pytest.mark.parametrize(
    "change",
    [
        {"recording": None},
        {"background": BackgroundState()},
        {"swap": {"state": "accepted"}},
    ],
)
def test_what_is_not_degraded(change: dict) -> None:
    assert liveness(replace(STATE, **change), LIMITS).degraded == ()


def test_age_of_the_background_need_not_matter() -> None:
    state = replace(STATE, background=BackgroundState(5, 1e6))
    assert liveness(state, HealthLimits()).degraded == ()


def test_state_is_the_content_of_the_status_message() -> None:
    found = decode_status(encode_status(STATE.to_dict()))
    assert found == json.loads(json.dumps(STATE.to_dict())) | {"kind": "deq-mpi-status", "version": 1}
    assert found["counters"]["frames_in"] == 3
    assert found["recording"] == {"state": "recording", "file": "run.mdf"}
    assert found["swap"] is None
