"""Settings of how the live loop deals with time, the background and doubt."""

from dataclasses import dataclass
from math import inf, isfinite

from engine.live.loop.late_frames import POLICIES
from engine.machine.checked_values import require


@dataclass(frozen=True)
class LoopConfig:
    """Choices of a live reconstruction.

    Attributes
    ----------
    policy : str
        Policy for frames that come faster than images: "latest" reconstructs the newest one and drops
        those before; "block-average" makes one image of the mean of all that wait; "every-frame" reconstructs
        one after the other, and refuses new ones while `queue_frames` wait.
    deadline_ms : float or None
        Time from a frame's push to its image. A method that can, gives its best iterate by then; an image
        that comes out later is late. None for none; false in a configuration file.
    reserve_ms : float
        Time kept back of the deadline for what follows the solve: the image in its unit, its residual, its
        message and the way to the subscriber.
    queue_frames : int
        Number of frames that may wait.
    background_frames : int
        Background frames that the running background remembers.
    background_max_age_s : float
        Age from which on a background is flagged.
    max_residual : float
        Largest `LiveReport.residual_ratio` that is not flagged.
    model_error : float
        Residual that a good calibration leaves besides the noise, relative to the data.
    noise_range : tuple of float
        Noise of the background frames over that of the calibration, least and most that is not flagged.
    saturation : float or None
        Largest |raw value| of a receive channel; None for the ends of an integer type.
    conversion : tuple of (float, float), optional
        Factors (a, b) per receive channel: signal = a * raw + b, for frames of raw counts.
    clock_jump_s : float
        Difference between the producer's clock and ours, from frame to frame, that is flagged.

    Raises
    ------
    ConfigError
        If a value is impossible.
    """

    policy: str = "latest"
    deadline_ms: float | None = 43.0
    reserve_ms: float = 6.0
    queue_frames: int = 16
    background_frames: int = 16
    background_max_age_s: float = 600.0
    max_residual: float = 1.25
    model_error: float = 0.1
    noise_range: tuple[float, float] = (0.5, 2.0)
    saturation: float | None = None
    conversion: tuple[tuple[float, float], ...] | None = None
    clock_jump_s: float = 1.0

    def __post_init__(self) -> None:
        require(self.policy in POLICIES, "policy", self.policy, f"one of {', '.join(POLICIES)}")
        for name in ("queue_frames", "background_frames"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in (
            *("background_max_age_s", "max_residual", "model_error", "clock_jump_s"),
            *("deadline_ms", "saturation"),
        ):
            value = getattr(self, name)
            require(value is None or 0 < value < inf, name, value, "a positive number")
        reserve, deadline = self.reserve_ms, self.deadline_ms
        require(0 <= reserve < inf, "reserve_ms", reserve, "a number of at least 0")
        in_time = deadline is None or reserve < deadline
        require(in_time, "reserve_ms", reserve, f"less than the deadline of {deadline} ms")
        least, most = self.noise_range
        increases = 0 <= least < most < inf
        require(increases, "noise_range", self.noise_range, "least and most, 0 <= least < most")
        for gain, offset in self.conversion or ():
            is_usable = isfinite(gain) and isfinite(offset) and gain != 0
            require(is_usable, "conversion", (gain, offset), "(a, b) per channel, a not 0")
