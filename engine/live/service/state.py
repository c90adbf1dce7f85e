"""State of the service at one moment, of which metrics, health and the status message are made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from engine.live.loop.counters import Counters
from engine.live.loop.live_image import BackgroundState

Phase = Literal["starting", "running", "stopping"]
"""Phase of a service; while it is running, operators and model are loaded and have passed their checks."""


@dataclass(frozen=True)
class ServiceState:
    """Snapshot of the service; all of it is of one moment.

    Attributes
    ----------
    state : {"starting", "running", "stopping"}
        Phase of the service.
    policy : str
        Policy for frames that come faster than images.
    deadline_ms : float or None
        Time from the push of a frame to its image; None without one.
    method, model : str
        Name of the method, and name or folder of its bundle.
    operators_sha256 : str
        Hash of the operators file.
    counters : Counters
        Account of where every frame went.
    background : BackgroundState
        State of the background that is subtracted.
    recording : mapping or None
        State of the recording: `state` ("recording", "stopped" or "closed"), `reason`, and the account of
        `engine.live.recording.state.RecordingState`; None where nothing is to be recorded.
    swap : mapping or None
        State of the last swap of operators or model: `state` and `reason` of
        `engine.live.loop.swap.SwapState`; None before the first.
    uptime_s : float
        Time since the start.
    last_image_age_s : float or None
        Time since the last image; None before the first.
    oldest_wait_s : float or None
        Time that the oldest frame has been in flight, reconstruction included; None when there is none.
    is_loop_alive : bool
        Whether the thread that reconstructs is alive.
    """

    state: Phase
    policy: str
    deadline_ms: float | None
    method: str
    model: str
    operators_sha256: str
    counters: Counters
    background: BackgroundState
    recording: Mapping[str, Any] | None = None
    swap: Mapping[str, Any] | None = None
    uptime_s: float = 0.0
    last_image_age_s: float | None = None
    oldest_wait_s: float | None = None
    is_loop_alive: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the status message (`engine.live.wire.messages.encode_status`)."""
        return {
            "state": self.state,
            "policy": self.policy,
            "deadline_ms": self.deadline_ms,
            "method": self.method,
            "model": self.model,
            "operators_sha256": self.operators_sha256,
            "counters": self.counters.to_dict(),
            "background": self.background.to_dict(),
            "recording": None if self.recording is None else dict(self.recording),
            "swap": None if self.swap is None else dict(self.swap),
            "uptime_s": self.uptime_s,
        }


@dataclass(frozen=True)
class HealthLimits:
    """Limits from which on something counts as wrong.

    Attributes
    ----------
    stuck_after_s : float
        Time from which on a frame in flight is stuck, and a service with it.
    background_old_after_s : float or None
        A background frame older than this is no good estimate any more; None if its age does not matter.
    """

    stuck_after_s: float = 10.0
    background_old_after_s: float | None = None


@dataclass(frozen=True)
class Health:
    """Answer on the health of a service, and its reasons.

    Attributes
    ----------
    ok : bool
        Whether it is as asked.
    reasons : tuple of str
        Reasons why not; empty if it is.
    degraded : tuple of str
        Matters that somebody should look after besides; images go on.
    """

    ok: bool
    reasons: tuple[str, ...]
    degraded: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {"ok": self.ok, "reasons": list(self.reasons), "degraded": list(self.degraded)}


def liveness(state: ServiceState, limits: HealthLimits) -> Health:
    """Say whether the service works at all: restart it if it does not.

    Its loop runs, and no frame has been in flight for longer than `stuck_after_s`.
    """
    reasons = []
    if not state.is_loop_alive:
        reasons.append("the reconstruction loop has ended")
    if state.oldest_wait_s is not None and state.oldest_wait_s > limits.stuck_after_s:
        reasons.append(
            f"a frame has been in flight for {state.oldest_wait_s:.1f} s; expected at most "
            f"{limits.stuck_after_s:g} s"
        )
    return Health(not reasons, tuple(reasons), _degraded(state, limits))


def readiness(state: ServiceState, limits: HealthLimits) -> Health:
    """Say whether frames may be sent: it is alive, and operators and model are loaded and checked."""
    alive = liveness(state, limits)
    reasons = alive.reasons
    if state.state == "starting":
        reasons = ("operators and model are not yet loaded and checked", *reasons)
    if state.state == "stopping":
        reasons = ("the service is stopping", *reasons)
    return Health(not reasons, reasons, alive.degraded)


def _degraded(state: ServiceState, limits: HealthLimits) -> tuple[str, ...]:
    found = []
    if state.recording is not None and state.recording.get("state") == "stopped":
        found.append(f"recording stopped: {state.recording.get('reason') or 'no reason given'}")
    age, limit = state.background.age_s, limits.background_old_after_s
    if age is not None and limit is not None and age > limit:
        found.append(f"background old: {age:.0f} s; expected at most {limit:g} s")
    if state.swap is not None and state.swap.get("state") in ("refused", "rolled-back"):
        found.append(f"swap {state.swap['state']}: {state.swap.get('reason') or 'no reason given'}")
    return tuple(found)
