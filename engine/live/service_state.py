"""The state of the service at one moment: what metrics, health and the status message are made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from engine.live.loop.counters import Counters
from engine.live.loop.live_image import BackgroundState

Phase = Literal["starting", "running", "stopping"]
"""Running: operators and model are loaded and have passed their checks."""


@dataclass(frozen=True)
class ServiceState:
    """A snapshot; all of it is of one moment.

    Attributes
    ----------
    state : {"starting", "running", "stopping"}
        What the service is doing.
    policy : str
        What happens to frames that come faster than images.
    deadline_ms : float or None
        From the push of a frame to its image; None without one.
    method, model : str
        Name of the method, and name or folder of its bundle.
    operators_sha256 : str
        Hash of the operators file.
    counters : Counters
        Where every frame went.
    background : BackgroundState
        What is subtracted from the frames.
    recording : mapping or None
        None where nothing is to be recorded. Else `state` ("recording", "stopped" or "closed"), `reason`, and
        the account of `engine.live.recording.state.RecordingState`.
    swap : mapping or None
        The last exchange of operators or model; None before the first. `state` and `reason` of
        `engine.live.loop.swap.SwapState`.
    uptime_s : float
        Since the start.
    last_image_age_s : float or None
        Since the last image; None before the first.
    oldest_wait_s : float or None
        How long the oldest frame has been in flight, its reconstruction included; None when there is none.
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
