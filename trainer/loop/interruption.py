"""Stopping a run in an orderly way on Ctrl-C (SIGINT)."""

import signal
import threading
from types import FrameType, TracebackType

from engine.errors import DeqMpiError


class InterruptedRunError(DeqMpiError):
    """The user stopped the run; a checkpoint was written (exit code 130, as shells use for SIGINT)."""

    exit_code = 130


class StopRequest:
    """While active, the first SIGINT sets `asked` and a second one interrupts at once.

    Outside the main thread, where Python delivers no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.asked = False
        self._previous: signal._HANDLER = None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
