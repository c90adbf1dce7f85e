"""Two pieces of work side by side: both are done, at the same time, and failures reach the caller."""

import gc
import os
import signal
import threading

import pytest

from engine.machine.two_cores import OneLane, TwoLanes, _Job

PATIENCE = 10.0
"""Seconds after which a thread that should have come is given up."""


@pytest.mark.parametrize("lanes", [OneLane(), TwoLanes()], ids=["one", "two"])
def test_both_tasks_are_done_every_time(lanes) -> None:
    done = []
    for turn in range(100):
        lanes.both(lambda turn=turn: done.append(("a", turn)), lambda turn=turn: done.append(("b", turn)))
        assert sorted(done[-2:]) == [("a", turn), ("b", turn)]


def test_two_lanes_work_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=PATIENCE)  # each task waits for the other
    TwoLanes().both(meeting.wait, meeting.wait)


@pytest.mark.parametrize("lanes", [OneLane(), TwoLanes()], ids=["one", "two"])
@pytest.mark.parametrize("which", [0, 1])
def test_a_failure_is_raised_and_the_lanes_still_work(lanes, which) -> None:
    def fail() -> None:
        raise ArithmeticError("of this task")

    tasks = [lambda: None, lambda: None]
    tasks[which] = fail
    with pytest.raises(ArithmeticError, match="of this task"):
        lanes.both(*tasks)
    done = []
    lanes.both(lambda: done.append(1), lambda: done.append(2))
    assert sorted(done) == [1, 2]


def test_the_second_task_has_ended_when_the_first_fails() -> None:
    ended = threading.Event()
    release = threading.Event()

    def slow() -> None:
        release.wait(PATIENCE)
        ended.set()

    def fail() -> None:
        release.set()
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        TwoLanes().both(fail, slow)
    assert ended.is_set()


def test_the_thread_ends_with_its_object() -> None:
    before = set(threading.enumerate())
    lanes = TwoLanes()
    (thread,) = set(threading.enumerate()) - before
    lanes.both(lambda: None, lambda: None)
    del lanes
    gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_two_failures_are_both_told() -> None:
    def fail(text: str) -> None:
        raise ArithmeticError(text)

    with pytest.raises(ArithmeticError, match="of the first") as caught:
        TwoLanes().both(lambda: fail("of the first"), lambda: fail("of the second"))
    assert any("of the second" in note for note in caught.value.__notes__)


def test_a_failure_does_not_keep_the_thread() -> None:
    def fail() -> None:
        raise ArithmeticError

    before = set(threading.enumerate())
    lanes = TwoLanes()
    (thread,) = set(threading.enumerate()) - before
    gc.disable()  # no cycle may be needed to be found
    try:
        with pytest.raises(ArithmeticError):
            lanes.both(lambda: None, fail)
        del lanes
        thread.join(PATIENCE)
    finally:
        gc.enable()
    assert not thread.is_alive()


def test_an_interrupt_waits_for_the_second_task_and_leaves_the_lanes_in_step() -> None:
    """A signal handler raises while `both` waits, as Ctrl-C does."""

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    lanes, done = TwoLanes(), []
    release = threading.Event()

    def slow() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        release.wait(0.3)
        done.append("slow")

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            lanes.both(lambda: None, slow)
        assert done == ["slow"]
        for turn in range(20):
            lanes.both(lambda: None, lambda turn=turn: done.append(turn))
            assert done[-1] == turn
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_gets_a_thread_of_its_own() -> None:
    lanes = TwoLanes()
    child = os.fork()
    if child == 0:
        done = []
        signal.alarm(int(PATIENCE))
        lanes.both(lambda: None, lambda: done.append(1))
        os._exit(0 if done == [1] else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    lanes.both(lambda: None, lambda: None)


def test_an_interrupt_between_the_end_of_a_task_and_its_notice_is_survived() -> None:
    """The interrupt comes when the queue has given its only item: nothing more will ever come out of it."""
    job = _Job(lambda: None)
    job.run()
    job._is_over = False  # as seen by a waiter that has not looked yet
    given = job._ended.get

    class Ended:
        calls = 0

        def get(self) -> None:
            self.calls += 1
            assert self.calls == 1, "asked again, for ever"
            given()
            job._is_over = True
            raise KeyboardInterrupt

    job._ended = Ended()
    with pytest.raises(KeyboardInterrupt):
        job.wait()
