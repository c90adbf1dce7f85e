"""An image of the live loop, and the account of how it came about."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from engine.arrays import Float32Array
from engine.mpi.grid import Grid
from engine.networks.interval_table import Interval
from engine.reconstruction.report import FrameReport


class Flag(StrEnum):
    """Flag that a reader of an image should know."""

    LATE = "late"  # it came out after its deadline
    DEADLINE = "deadline"  # the solve was ended for the deadline; this is the best iterate
    NOT_CONVERGED = "not-converged"
    AVERAGED = "averaged"  # several frames
    GAP = "gap"  # numbers are missing between this frame and the one before it
    CLOCK_JUMP = "clock-jump"  # the producer's clock went back, or far ahead of ours
    NO_BACKGROUND = "no-background"  # nothing was subtracted
    BACKGROUND_OLD = "background-old"
    NOISE_LEVEL = "noise-level"  # far from the calibration's
    RESIDUAL = "residual"  # the image does not explain the data: another scanner state, or the wrong matrix
    SATURATED = "saturated"  # a receive channel reached its limit
    SWAPPED = "swapped"  # the first image with other operators or another model


@dataclass(frozen=True)
class LiveReport:
    """Report of how one image came about.

    Attributes
    ----------
    sequence : int
        Number of the newest frame in it.
    first_sequence : int
        Number of the oldest frame in it.
    n_frames : int
        Number of frames in it: 1, or more where frames were averaged.
    stream : str
        Name that the producer gave to the run.
    acquired_ns : int or None
        Time stamp that the producer gave to the newest frame.
    received_ns, finished_ns : int
        Times of the newest frame's push and of the finished image: our clock, nanoseconds since 1970 UTC.
    waited_ms : float
        Time from the push of the newest frame to the beginning of its work, by a clock that is never set.
    latency_ms : float
        Time from that push to the finished image.
    flags : tuple of Flag
        Flags that a reader should know.
    saturated_channels : tuple of int
        Receive channels that reached their limit, 0-based.
    residual_ratio : float or None
        ||A x - y|| over epsilon', which counts the noise of the background frames (that of the calibration
        while there are none) and `LoopConfig.model_error` of the data. `FrameReport.residual_over_epsilon`
        has the noise estimated from the frame itself, in which data of another scanner state look like noise.
        None where that is not known.
    frame : FrameReport
        Report of the reconstructor.
    """

    sequence: int
    first_sequence: int
    n_frames: int
    stream: str
    acquired_ns: int | None
    received_ns: int
    finished_ns: int
    waited_ms: float
    latency_ms: float
    flags: tuple[Flag, ...]
    saturated_channels: tuple[int, ...]
    residual_ratio: float | None
    frame: FrameReport

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold; those of `frame` stand beside the others."""
        own = {name: value for name, value in asdict(self).items() if name != "frame"}
        own["flags"] = [flag.value for flag in self.flags]
        own["saturated_channels"] = list(self.saturated_channels)
        return own | self.frame.to_dict()


@dataclass(frozen=True)
class BackgroundState:
    """State of the background that is subtracted from the frames.

    Attributes
    ----------
    n_frames : int
        Background frames seen; 0 while nothing is subtracted.
    age_s : float or None
        Time since the newest of them, in s.
    sigma : float or None
        Noise of theirs per real row in units of the calibration's; None with fewer than two.
    drift : float or None
        Change since the first estimate, per real row and in units of the calibration's noise (rms).
    """

    n_frames: int = 0
    age_s: float | None = None
    sigma: float | None = None
    drift: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class LiveImage:
    """One image with its interval, background and report.

    Attributes
    ----------
    image : ndarray of float32, shape (Nz, Ny, Nx)
        Tracer concentration in the unit of the calibration. Always finite.
    interval : Interval or None
        Bounds of the true concentrations, where the model has them.
    grid : Grid
        Grid of the image.
    background : BackgroundState
        Background that was subtracted.
    report : LiveReport
        Report of how it came about.
    """

    image: Float32Array
    interval: Interval | None
    grid: Grid
    background: BackgroundState
    report: LiveReport
