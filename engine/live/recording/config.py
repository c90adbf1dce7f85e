"""Where and how a recording is made."""

from dataclasses import dataclass
from math import inf
from pathlib import Path

from engine.machine.checked_values import require


@dataclass(frozen=True)
class RecordingConfig:
    """Settings of the recording of raw frames and images.

    Attributes
    ----------
    folder : Path
        Where the files appear; it must exist. Its file system must know sparse files, as all usual ones do.
    template : Path
        MDF file of the same scanner setting, such as the calibration, whose metadata the files get.
    frames_per_file : int
        Frames or images after which the next file begins.
    min_free_mb : float
        Recording stops when less than this many MB (2^20 bytes) would be left on the disk.
    queue_frames : int
        Frames, and as many images, that may wait to be written; more are lost, and counted.
    retry_s : float
        Recording that stopped for want of space begins again when space has been back for this long; seconds.

    Raises
    ------
    ConfigError
        If a value is out of range.
    """

    folder: Path
    template: Path
    frames_per_file: int = 10_000
    min_free_mb: float = 200.0
    queue_frames: int = 256
    retry_s: float = 10.0

    def __post_init__(self) -> None:
        for name, most in (("frames_per_file", 1_000_000), ("queue_frames", 100_000)):
            value = getattr(self, name)
            require(1 <= value <= most, f"recording {name}", value, f"1 to {most}")
        for name in ("min_free_mb", "retry_s"):
            value = getattr(self, name)
            require(0 <= value < inf, f"recording {name}", value, "a number that is not negative")
