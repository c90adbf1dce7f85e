"""Whether the service is alive and ready, and what of it is not as it should be."""

from dataclasses import dataclass
from typing import Any

from engine.live.service_state import ServiceState


@dataclass(frozen=True)
class HealthLimits:
    """When something counts as wrong.

    Attributes
    ----------
    stuck_after_s : float
        A frame that is in flight for longer than this is stuck, and a service with it.
    background_old_after_s : float or None
        An empty frame older than this is no good estimate any more; None if its age does not matter.
    """

    stuck_after_s: float = 10.0
    background_old_after_s: float | None = None


@dataclass(frozen=True)
class Health:
    """An answer and its reasons.

    Attributes
    ----------
    ok : bool
        Whether it is as asked.
    reasons : tuple of str
        Why not; empty if it is.
    degraded : tuple of str
        What else somebody should look after; images go on.
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
