"""Two pieces of work side by side: on two cores, or one after the other on one.

The halves of an evaluation take a fraction of a millisecond, so the second core is a thread that stays and is
handed its half through a queue: about ten microseconds. Both halves spend their time in products and in the
runtime of the networks, which hold no Python lock.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol
from weakref import finalize

from engine.denormals import denormals_as_zero

Task = Callable[[], None]


class Lanes(Protocol):
    """Where two tasks are done."""

    @property
    def count(self) -> int:
        """Number of tasks that run at a time: 1 or 2."""
        ...

    def both(self, first: Task, second: Task) -> None:
        """Do both tasks and return when both are done; what one of them raises is raised here."""
        ...


class OneLane:
    """One task after the other, in the calling thread."""

    count = 1

    def both(self, first: Task, second: Task) -> None:
        """Do the first task, then the second."""
        first()
        second()


class TwoLanes:
    """The first task in the calling thread, the second in a thread that waits for it.

    The thread ends with the object. `both` may be called from one thread at a time.
    """

    count = 2

    def __init__(self) -> None:
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._ends: SimpleQueue[BaseException | None] = SimpleQueue()
        threading.Thread(
            target=_work, args=(self._tasks, self._ends), name="deq-mpi-lane", daemon=True
        ).start()
        finalize(self, self._tasks.put, None)

    def both(self, first: Task, second: Task) -> None:
        """Do both tasks at the same time."""
        self._tasks.put(second)
        try:
            first()
        finally:  # the second task uses the caller's buffers: never leave while it runs
            failure = self._ends.get()
        if failure is not None:
            raise failure


def _work(tasks: "SimpleQueue[Task | None]", ends: "SimpleQueue[BaseException | None]") -> None:
    with denormals_as_zero():  # as in the thread that hands out the tasks
        while (task := tasks.get()) is not None:
            try:
                task()
            except BaseException as failure:
                ends.put(failure)
            else:
                ends.put(None)
            del task  # it holds the owner of this thread, which must be able to end
