"""Settings of a recording: where and how it is made."""

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
        Folder of the files; it must exist, on a file system with sparse files, as all usual ones have.
    template : Path
        MDF file of the same scanner setting, such as the calibration, whose metadata the files get.
    frames_per_file : int
        Number of frames or images after which the next file begins.
    min_free_mb : float
        Space in MB (2^20 bytes) on the disk, below which recording stops.
    queue_frames : int
        Number of frames, and of images, that may wait to be written; more are lost, and counted.
    retry_s : float
        Time in s for which space has to be back before a recording that stopped for want of it begins again.

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
