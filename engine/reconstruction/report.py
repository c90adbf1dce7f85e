"""The account of one reconstructed frame, for people and for JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from engine.fixed_point.solution import Result


@dataclass(frozen=True)
class FrameReport:
    """Report of how one frame was reconstructed.

    Attributes
    ----------
    method : str
        Name of the method.
    result : Result
        End of the solve.
    iterations : int
        Evaluations of the fixed-point map, or sweeps of a row method; 0 for a direct method.
    residuals : tuple of float
        Relative residual after each iteration.
    restarts : int
        Accelerated steps that the safeguard rejected.
    residual_over_epsilon : float or None
        Residual ||A x - y|| / epsilon of the image given back; about 1 or less when the image explains the
        data to the noise. None where sigma is.
    sigma : float or None
        Noise standard deviation used, whitened units. None for a zero measurement, and for a least-squares
        image with too few rows to estimate it.
    snr_db : float or None
        Estimate of the measurement SNR (Eq. 36). None where sigma is.
    weights : mapping of str to float
        Hand-set weights that were used, by name; empty for a method without.
    weights_clamped : bool
        Whether `snr_db` lies outside the range that the weights were tuned for; those of the nearest end were
        used then.
    interval_coverage : float or None
        Share of the voxels whose truth the interval of the image is to hold; None if the image has none.
    interval_clamped : bool
        Whether `snr_db` lies outside the range that the intervals were calibrated for; those of the nearest
        end were used then, and below the range they are too narrow.
    intensity : float
        Concentration of an image value of 1; 0 for a zero measurement.
    milliseconds : float
        Wall time of the frame, normalisation included; of frames solved together, their mean.
    """

    method: str
    result: Result
    iterations: int
    residuals: tuple[float, ...]
    restarts: int
    residual_over_epsilon: float | None
    sigma: float | None
    snr_db: float | None
    weights: Mapping[str, float]
    weights_clamped: bool
    interval_coverage: float | None
    interval_clamped: bool
    intensity: float
    milliseconds: float

    @property
    def converged(self) -> bool:
        """Whether the image solves the problem to the accuracy asked for."""
        return self.result.is_success

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return asdict(self) | {
            "result": self.result.name.lower(),
            "converged": self.converged,
            "residuals": list(self.residuals),
            "weights": dict(self.weights),
        }
