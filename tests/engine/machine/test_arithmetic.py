"""Denormal numbers count as zero inside, and as what they are outside and in other threads."""

import threading

import numpy as np
import pytest

from engine.machine.arithmetic import IS_X86, denormals_as_zero
from engine.machine.two_cores import TwoLanes

DENORMAL = np.full(4, 1e-40, np.float32)

pytestmark = pytest.mark.skipif(not IS_X86, reason="only the x86 control register is switched")


def halved() -> np.ndarray:
    return DENORMAL * np.float32(0.5)


def test_they_are_zero_inside_and_kept_outside() -> None:
    assert halved().all()
    with denormals_as_zero():
        assert not halved().any()
        with denormals_as_zero():
            assert not halved().any()
        assert not halved().any()
        assert np.float32(1e-30) * np.float32(0.5) == np.float32(5e-31)  # not denormal
    assert halved().all()


def test_an_error_inside_switches_back() -> None:
    with pytest.raises(ArithmeticError), denormals_as_zero():
        raise ArithmeticError
    assert halved().all()


def test_another_thread_keeps_its_own_setting() -> None:
    found = []
    inside, seen = threading.Event(), threading.Event()

    def other() -> None:
        inside.wait(10)
        found.append(halved())
        seen.set()

    thread = threading.Thread(target=other)
    thread.start()
    with denormals_as_zero():
        inside.set()
        assert seen.wait(10)
    thread.join()
    assert found[0].all()


def test_the_second_lane_counts_them_as_zero() -> None:
    found = []
    TwoLanes().both(lambda: None, lambda: found.append(halved()))
    assert not found[0].any()
    assert halved().all()
