"""What the images lose when the reference scanner's system matrix is replaced by its leading triplets."""

from functools import cache
from typing import Any

from benchmarks.harness.quality import image_quality, reconstruct
from benchmarks.scans.scans import TRAIN_GRADIENT, frames_of_test_split, reference_scan
from engine.operators.factorisation import make_factored_operators
from engine.operators.operators import Operators
from engine.reconstruction.methods import open_method
from engine.reconstruction.reconstructor import Reconstructor


def measure_quality(method: str, snr: float, n_triplets: int, count: int) -> dict[str, Any]:
    """Reconstruct test frames with K triplets; networks and weights are those that ship.

    Parameters
    ----------
    method : str
    snr : float
        Mean measurement SNR in dB.
    n_triplets : int
        K; all 338 are the matrix itself.
    count : int
        Frames.

    Returns
    -------
    dict
        Figures of `image_quality`, `truncation_error` and `largest_dropped` of the operators.
    """
    operators = _operators(n_triplets)
    frames = frames_of_test_split(TRAIN_GRADIENT, count, snr)
    images, _ = reconstruct(Reconstructor(open_method(method, operators)), frames.rows)
    return image_quality(images, frames.truth) | {
        "truncation_error": operators.truncation_error,
        "largest_dropped": operators.largest_dropped,
    }


@cache
def _operators(n_triplets: int) -> Operators:
    # The matrix that `benchmarks.scans.scans` reconstructs with: not the one that made the data.
    return make_factored_operators(reference_scan(TRAIN_GRADIENT).measured.smoothed(), n_triplets)
