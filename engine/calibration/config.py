"""Settings of a calibration: which rows, on which grid."""

import math
from dataclasses import dataclass

from engine.errors import ConfigError


@dataclass(frozen=True)
class CalibrationConfig:
    """Settings of a calibration: which rows of a system matrix are used, and on which grid.

    Attributes
    ----------
    snr_threshold : float
        Rows with a larger signal-to-noise ratio are kept; 5 in the paper (Sec. IV-C).
    harmonics : tuple of int, optional
        First and last harmonic of the drive frequency to keep; None for no such restriction.
    harmonic_half_width : float
        Width in Hz kept on both sides of each harmonic; 650 Hz are 13 bins of 100 Hz.
    min_frequency : float
        Smallest frequency kept, in Hz.
    max_frequency : float, optional
        Largest frequency kept, in Hz; None for the receiver bandwidth.
    channels : tuple of int, optional
        Receive channels, 0-based; None for all.
    upsample : int
        Refinement of the grid by bicubic interpolation of the system matrix.
    smooth : bool
        Whether A U D takes the place of A, as for data emulated with A itself (Sec. IV-D).
    rank : int, optional
        Singular triplets of the least-squares start; None for the default of `make_operators`.
    factors : int, optional
        Number of singular triplets kept in place of the system matrix; None keeps the matrix.

    Raises
    ------
    ConfigError
        If a value is impossible.
    """

    snr_threshold: float = 5.0
    harmonics: tuple[int, int] | None = (2, 11)
    harmonic_half_width: float = 650.0
    min_frequency: float = 0.0
    max_frequency: float | None = None
    channels: tuple[int, ...] | None = None
    upsample: int = 1
    smooth: bool = False
    rank: int | None = None
    factors: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.snr_threshold) and self.snr_threshold >= 0):
            raise ConfigError(f"SNR threshold is {self.snr_threshold}; expected a number of at least 0")
        if self.harmonics is not None and not 1 <= self.harmonics[0] <= self.harmonics[1]:
            raise ConfigError(f"harmonics are {self.harmonics}; expected first and last, 1 <= first <= last")
        if not (math.isfinite(self.harmonic_half_width) and self.harmonic_half_width >= 0):
            raise ConfigError(
                f"harmonic half width is {self.harmonic_half_width} Hz; expected a frequency of at least 0"
            )
        top = math.inf if self.max_frequency is None else self.max_frequency
        if not 0 <= self.min_frequency <= top:
            raise ConfigError(
                f"frequencies from {self.min_frequency} to {self.max_frequency} Hz; expected 0 <= min <= max"
            )
        if self.channels is not None and (not self.channels or len(set(self.channels)) < len(self.channels)):
            raise ConfigError(f"receive channels are {self.channels}; expected distinct 0-based numbers")
        if self.upsample < 1:
            raise ConfigError(f"upsampling factor is {self.upsample}; expected 1 (none) or more")
        if self.factors is not None and self.factors < 1:
            raise ConfigError(f"factors is {self.factors}; expected at least 1, or none to keep the matrix")
