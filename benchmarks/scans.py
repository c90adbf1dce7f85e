"""The simulated scans and test frames that the benchmarks share, each made once per process."""

from functools import cache, lru_cache

from engine.emulation import Frames, Scan, emulate_frames, emulate_scan

GRADIENTS = (0.5, 0.6)
"""Selection-field gradients in T/m. The networks were trained at the first."""

TRAIN_GRADIENT = 0.5

SNRS = (15.0, 25.0, 35.0)
"""Measurement SNRs of the paper's Tables I and II in dB."""


@cache
def reference_scan(gradient: float) -> Scan:
    """Simulate the calibration at a gradient in T/m."""
    return emulate_scan(f"reference-{gradient}")


@lru_cache(maxsize=4)
def frames_of_test_split(gradient: float, count: int, snr: float) -> Frames:
    """Measure test phantoms at a gradient in T/m and a mean SNR in dB."""
    return emulate_frames(reference_scan(gradient), count, snr)
