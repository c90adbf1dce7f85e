"""Settings of how the live loop deals with time, the background and doubt."""

import math
from dataclasses import dataclass

from engine.errors import ConfigError
from engine.live.loop.late_frames import POLICIES


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
        Number of empty frames that the running background remembers.
    background_max_age_s : float
        Age from which on a background is flagged.
    max_residual : float
        Largest `LiveReport.residual_ratio` that is not flagged.
    model_error : float
        Residual that a good calibration leaves besides the noise, relative to the data.
    noise_range : tuple of float
        Noise of the empty frames over that of the calibration, least and most that is not flagged.
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
        if self.policy not in POLICIES:
            raise ConfigError(f"policy is {self.policy!r}; expected one of {', '.join(POLICIES)}")
        for name in ("queue_frames", "background_frames"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} is {value!r}; expected an integer of at least 1")
        for name in ("background_max_age_s", "max_residual", "model_error", "clock_jump_s"):
            _require_positive(name, getattr(self, name))
        for name in ("deadline_ms", "saturation"):
            if getattr(self, name) is not None:
                _require_positive(name, getattr(self, name))
        if not (_is_number(self.reserve_ms) and self.reserve_ms >= 0):
            raise ConfigError(f"reserve_ms is {self.reserve_ms!r}; expected a number of at least 0")
        if self.deadline_ms is not None and self.reserve_ms >= self.deadline_ms:
            raise ConfigError(
                f"reserve_ms is {self.reserve_ms}; expected less than the deadline of {self.deadline_ms} ms"
            )
        least, most = self.noise_range
        if not (_is_number(least) and _is_number(most) and 0 <= least < most):
            raise ConfigError(
                f"noise_range is {self.noise_range!r}; expected least and most, 0 <= least < most"
            )
        for gain, offset in self.conversion or ():
            if not (_is_number(gain) and _is_number(offset)) or gain == 0:
                raise ConfigError(f"conversion holds {(gain, offset)}; expected (a, b) per channel, a not 0")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _require_positive(name: str, value: object) -> None:
    if not _is_number(value) or value <= 0:  # type: ignore[operator]  # it is a number
        raise ConfigError(f"{name} is {value!r}; expected a positive number")
