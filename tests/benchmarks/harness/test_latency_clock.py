"""Timing in turn, on a clock that only the stand-in contestants move."""

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from benchmarks.contestants.latency_contestants import Call, Images, Timed
from benchmarks.harness import latency_clock
from benchmarks.harness.latency_clock import Times, time_in_turn

ROUNDING = 1e-9
"""Differences of the stand-in clock, relative."""


class World:
    """A clock, and what happened on it: pauses as "pause", calls as (name, frames)."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events: list[object] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.events.append("pause")

    def contestant(self, name: str, batch: int, seconds: float) -> Timed:
        """Return one whose n-th call, from 0, takes n + 1 times so long, and n iterations."""
        return Timed(name, "stand-in", 1, batch, self._call(name, seconds))

    def _call(self, name: str, seconds: float) -> Call:
        calls: list[int] = []

        def call(rows: NDArray[np.floating]) -> tuple[Images, float]:
            calls.append(1)
            self.now += seconds * len(calls)
            self.events.append((name, rows[:, 0].astype(int).tolist()))
            return (10 * rows).astype(np.float32), float(len(calls) - 1)

        return call


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    clock = SimpleNamespace(perf_counter=lambda: world.now, sleep=world.sleep)
    monkeypatch.setattr(latency_clock, "time", clock)
    monkeypatch.setattr(latency_clock, "BLOCK", 4)
    monkeypatch.setattr(latency_clock, "WARM_UP", 2)
    return world


FRAMES = np.arange(5.0)[:, None] * np.ones(3)
"""Rows (5, 3) that hold the number of their frame."""


def test_contestants_take_turns_in_blocks(world: World) -> None:
    notes: list[str] = []
    field = [world.contestant("single", 1, 1.0), world.contestant("batch", 3, 1.0)]
    time_in_turn(field, FRAMES, 6, notes.append)
    singles = [3, 4, 0, 1, 2, 3]  # two to warm up, four that count
    batches = [[4, 0, 1], [2, 3, 4], [0, 1, 2], [3, 4, 0], [1, 2, 3], [4, 0, 1]]
    assert world.events == [
        *("pause", *(("single", [frame]) for frame in singles)),
        *("pause", *(("batch", frames) for frames in batches)),
        *("pause", *(("single", [frame]) for frame in (2, 3, 4, 0))),
        *("pause", *(("batch", frames) for frames in ([1, 2, 3], [4, 0, 1], [2, 3, 4], [0, 1, 2]))),
    ]
    assert notes == ["calls 0 to 4 of 6", "calls 4 to 6 of 6"]


def test_calls_to_warm_up_do_not_count(world: World) -> None:
    (times,) = time_in_turn([world.contestant("single", 1, 0.01)], FRAMES, 6, lambda _: None)
    counted = [2, 3, 4, 5, 8, 9]
    assert times.iterations == counted
    assert_allclose(times.milliseconds, [10.0 * (number + 1) for number in counted], rtol=ROUNDING)


@pytest.mark.parametrize(("batch", "calls", "seen"), [(1, 3, 3), (1, 6, 5), (3, 1, 3), (7, 1, 5)])
def test_images_are_kept_by_their_frame(world: World, batch: int, calls: int, seen: int) -> None:
    (times,) = time_in_turn([world.contestant("any", batch, 1.0)], FRAMES, calls, lambda _: None)
    assert sorted(times.images) == list(range(seen))
    for frame, image in times.images.items():
        assert (image == 10 * frame).all()


def test_figures_are_percentiles_of_the_calls() -> None:
    elapsed = np.random.default_rng(0).permutation(1001).astype(float)
    figures = Times(elapsed.tolist(), [3.0, 5.0, 7.0]).figures()
    assert figures == pytest.approx(
        {"iterations": 5.0, "p50_ms": 500.0, "p99_ms": 990.0, "p999_ms": 999.0, "n": 1001}
    )
