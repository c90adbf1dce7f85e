"""Which cores a frame gets: what was asked for, or what measures faster."""

import os
import time

import numpy as np
import pytest

from engine.calibration.calibrate import make_operators
from engine.errors import ConfigError
from engine.solvers.deq.lane_choice import choose_lanes

PAUSE = 0.002
"""Seconds that a stand-in step takes: far above what else the measurement does."""


class SleepingStep:
    """Stand in for the step: takes its time, less of it on two lanes if they help."""

    n_voxels = 2

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def states(self, images):
        return images

    def __call__(self, _z, _out) -> None:
        time.sleep(self._seconds)


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1}, raising=False)


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize(("gain", "expected"), [(0.4, 2), (1.0, 1), (2.0, 1)])
def test_auto_takes_the_second_core_only_where_it_helps(gain: float, expected: int) -> None:
    lanes = choose_lanes("auto", lambda lanes: SleepingStep(PAUSE * (gain if lanes.count == 2 else 1.0)))
    assert lanes.count == expected


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_number_is_taken_at_its_word(threads: int) -> None:
    def never(_lanes):
        raise AssertionError("measured although a number was given")

    assert choose_lanes(threads, never).count == threads


def test_one_core_is_never_shared_by_two_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {3}, raising=False)
    assert choose_lanes("auto", lambda _lanes: SleepingStep(0.0)).count == 1
    with pytest.raises(ConfigError, match="may use 1 core; expected"):
        choose_lanes(2, lambda _lanes: SleepingStep(0.0))


def test_a_real_step_can_be_measured(small_system_matrix) -> None:
    from engine.solvers.deq.admm_step import AdmmStep

    operators = make_operators(small_system_matrix)

    def make(lanes):
        return AdmmStep(operators, lambda v, _noise: v, lambda v, _y, _mask, _epsilon: np.array(v), lanes)

    assert choose_lanes("auto", make).count in (1, 2)
