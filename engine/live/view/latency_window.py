"""The latencies of the last images, as a histogram for people."""

import math
from collections import deque
from typing import Any

import numpy as np

WINDOW = 2048
"""Number of images: 44 s at 46.4 frames/s, enough for a 99th percentile that stands still."""

BINS = 40
"""Number of bars, as many as can be told apart in a panel."""


class LatencyWindow:
    """The newest `WINDOW` latencies."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=WINDOW)

    def add(self, milliseconds: float) -> None:
        """Take in one image."""
        self._values.append(milliseconds)

    def clear(self) -> None:
        """Start anew, for another run of the service."""
        self._values.clear()

    def histogram(self, deadline_ms: float | None) -> dict[str, Any]:
        """Return counts and percentiles, for JSON.

        Parameters
        ----------
        deadline_ms : float or None
            Deadline, in the middle of the axis, which reaches further only if the percentiles do.

        Returns
        -------
        dict
            Histogram: `top_ms` (end of the axis, which begins at 0), `counts` of `BINS` equal bins, `above`
            the axis, `n`, and `p50_ms`, `p99_ms`, `max_ms` (None without an image).
        """
        values = np.array(self._values, np.float64)
        if not values.size:
            top = 2.0 * (deadline_ms or 50.0)
            return {
                "top_ms": top, "counts": [0] * BINS, "above": 0, "n": 0,
                "p50_ms": None, "p99_ms": None, "max_ms": None,
            }  # fmt: skip
        p50, p99 = np.percentile(values, [50, 99])
        top = max(2.0 * (deadline_ms or 0.0), round_up(1.2 * float(p99)))
        counts, _ = np.histogram(values, BINS, (0.0, top))
        return {
            "top_ms": top,
            "counts": counts.tolist(),
            "above": int(np.count_nonzero(values > top)),
            "n": int(values.size),
            "p50_ms": float(p50),
            "p99_ms": float(p99),
            "max_ms": float(values.max()),
        }


def round_up(value: float) -> float:
    """Return the next of 1, 2, 4, 6, 8, 10 times a power of ten, at least 1."""
    if value <= 1.0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return float(next(step * power for step in (1, 2, 4, 6, 8, 10, 20) if step * power >= value))
