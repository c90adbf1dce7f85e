"""Two pieces of work side by side: on two cores, or one after the other on one.

The halves of an evaluation take a fraction of a millisecond, so the second core is a thread that stays and is
handed its half through a queue: about ten microseconds. Both halves spend their time in products and in the
runtime of the networks, which hold no Python lock.
"""

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Literal, Protocol
from weakref import finalize

from engine.machine.arithmetic import denormals_as_zero

Threads = int | Literal["auto"]
"""A number of cores, or whichever measures faster."""

Task = Callable[[], None]


class Lanes(Protocol):
    """Places where two tasks are done: one after the other on one core, or side by side on two."""

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

    The thread ends with the object. `both` may be called from one thread at a time. If both tasks fail, the
    failure of the first is raised, with that of the second as a note.
    """

    count = 2

    def __init__(self) -> None:
        self._begin()

    def both(self, first: Task, second: Task) -> None:
        """Do both tasks at the same time."""
        if os.getpid() != self._process:  # after a fork the thread has stayed in the other process
            self._begin()
        job = _Job(second)
        try:
            self._jobs.put(job)
            first()
        except BaseException as error:
            # The second task uses the caller's buffers: never leave while it runs. Whether it was handed over
            # before an interrupt is not known; what is handed over now comes after it in any case.
            last = _Job(_nothing)
            self._jobs.put(last)
            last.wait()
            if job.failure is not None:
                error.add_note(f"and at the same time: {type(job.failure).__name__}: {job.failure}")
            raise
        job.wait()
        job.raise_failure()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        threading.Thread(target=_work, args=(self._jobs,), name="deq-mpi-lane", daemon=True).start()
        finalize(self, self._jobs.put, None)


class _Job:
    """A task for the other thread, and how it ended."""

    def __init__(self, task: Task) -> None:
        self._task: Task | None = task
        self._ended: SimpleQueue[None] = SimpleQueue()
        self._is_over = False
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Do the task, in the other thread."""
        try:
            if self._task is not None:
                self._task()
        except BaseException as failure:
            self.failure = failure
        self._task = None  # it holds the owner of the thread, which must be able to end
        self._is_over = True
        self._ended.put(None)

    def wait(self) -> None:
        """Return when the task has ended, and not before: an interrupt is raised only then."""
        interrupt: BaseException | None = None
        while True:
            try:
                # An interrupt may come right after the queue gave its only item: never ask again then.
                while not self._is_over:
                    self._ended.get()
            except BaseException as error:
                interrupt = error
            else:
                break
        if interrupt is not None:
            raise interrupt

    def raise_failure(self) -> None:
        """Raise what the task raised, and let go of it."""
        failure, self.failure = self.failure, None
        try:
            if failure is not None:
                raise failure
        finally:
            del failure  # its traceback holds this frame


def _nothing() -> None:
    pass


def _work(jobs: "SimpleQueue[_Job | None]") -> None:
    with denormals_as_zero():  # as in the thread that hands out the tasks
        while (job := jobs.get()) is not None:
            job.run()
            del job
