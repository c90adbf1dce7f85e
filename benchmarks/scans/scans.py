"""The simulated scans and test frames that the benchmarks share, each made once per process."""

from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from engine.mpi.metrics import snr_db
from engine.tuning.emulation import Frames, Scan, emulate_frames, emulate_scan

GRADIENTS = (0.5, 0.6)
"""Selection-field gradients in T/m. The networks were trained at the first."""

TRAIN_GRADIENT = 0.5

SNRS = (15.0, 25.0, 35.0)
"""Measurement SNRs of the paper's Tables I and II in dB."""

TRAIN_SNRS = (5.0, 15.0, 25.0, 35.0, 45.0)
"""SNRs in dB for which there are models of their own (`benchmarks.contestants.ablation_models`)."""

EXPERIMENT_SNR = 20.0
"""Of the paper's measured phantoms, in dB."""


@cache
def reference_scan(gradient: float) -> Scan:
    """Simulate the calibration at a gradient in T/m."""
    return emulate_scan(f"reference-{gradient}")


@lru_cache(maxsize=4)
def frames_of_test_split(gradient: float, count: int, snr: float) -> Frames:
    """Measure test phantoms at a gradient in T/m and a mean SNR in dB."""
    return emulate_frames(reference_scan(gradient), count, snr)


def frames_of_image(
    gradient: float, image: NDArray[np.floating], count: int, snr: float, seed: int = 0
) -> Frames:
    """Measure an image (Ny, Nx) `count` times at a gradient in T/m, each with new noise at an SNR in dB."""
    scan = reference_scan(gradient)
    clean = scan.measured.real_rows() @ image.reshape(-1).astype(np.float64) / scan.operators.scale
    noise_std = float(np.linalg.norm(clean) / np.sqrt(clean.size) * 10 ** (-snr / 20))
    rng = np.random.default_rng([seed, 37])
    rows = clean + noise_std * rng.standard_normal((count, clean.size))
    truth = np.repeat(image[None].astype(np.float32), count, axis=0)
    return Frames(truth, rows, noise_std, snr_db(clean[None].repeat(count, axis=0), rows))
