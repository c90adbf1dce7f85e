"""Timing calls in turn: blocks of frames, so that whatever else the machine does hits all of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.contestants.latency_contestants import Images, Timed

BLOCK = 50
"""Calls of one contestant before it is the next one's turn."""

PAUSE = 0.3
"""Seconds before each turn: threads that wait for more work of the last one go to sleep."""

WARM_UP = 3
"""Calls of each turn that are not counted."""


@dataclass
class Times:
    """Of one contestant: milliseconds of every call, images of the first pass and iterations."""

    milliseconds: list[float] = field(default_factory=list)
    iterations: list[float] = field(default_factory=list)
    images: dict[int, Images] = field(default_factory=dict)

    def figures(self) -> Mapping[str, float]:
        """Return the percentiles of a call and its mean iterations."""
        p50, p99, p999 = np.percentile(self.milliseconds, [50, 99, 99.9])
        return {
            "iterations": float(np.mean(self.iterations)),
            "p50_ms": float(p50),
            "p99_ms": float(p99),
            "p999_ms": float(p999),
            "n": len(self.milliseconds),
        }


def milliseconds(
    call: Callable[[NDArray[np.floating]], tuple[Images, float]], rows: NDArray[np.floating]
) -> tuple[tuple[Images, float], float]:
    """Return what a call returns, and how long it took."""
    started = time.perf_counter()
    found = call(rows)
    return found, 1e3 * (time.perf_counter() - started)


def time_in_turn(
    contestants: Sequence[Timed],
    rows: NDArray[np.floating],
    calls: int,
    report: Callable[[str], None],
) -> list[Times]:
    """Time every contestant on whitened frames (F, R), which come round again, so many calls each."""
    times = [Times() for _ in contestants]
    for first in range(0, calls, BLOCK):
        report(f"calls {first} to {min(first + BLOCK, calls)} of {calls}")
        for contestant, own in zip(contestants, times, strict=True):
            time.sleep(PAUSE)
            for number in range(first - WARM_UP, min(first + BLOCK, calls)):
                frames = (number * contestant.batch + np.arange(contestant.batch)) % len(rows)
                (images, iterations), elapsed = milliseconds(contestant.call, rows[frames])
                if number >= first:
                    own.milliseconds.append(elapsed)
                    own.iterations.append(iterations)
                    own.images.update(zip(frames.tolist(), images, strict=True))
    return times
