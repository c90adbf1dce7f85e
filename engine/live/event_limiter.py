"""At most so many lines of a kind in a while: a flood must not fill the disk."""

import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class RateLimit:
    """How many lines of one kind are written.

    Attributes
    ----------
    lines : int
        In one window; at least 1.
    seconds : float
        Length of a window. It begins with the first line of its kind.
    """

    lines: int = 20
    seconds: float = 10.0


@dataclass
class _Window:
    began: float
    admitted: int = 0
    suppressed: int = 0


class EventLimiter:
    """Admits lines by kind, and keeps account of those it did not admit; from any thread.

    Parameters
    ----------
    limit : RateLimit
        Of each kind.
    """

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit
        self._windows: dict[str, _Window] = {}
        self._lock = threading.Lock()

    def admit(self, kind: str, now: float) -> bool:
        """Whether a line of a kind may be written at a time in seconds; else it counts as suppressed.

        Call `ended` first: a window that is over counts on until it was asked for.
        """
        with self._lock:
            window = self._windows.setdefault(kind, _Window(now))
            if window.admitted < self._limit.lines:
                window.admitted += 1
                return True
            window.suppressed += 1
            return False

    def ended(self, now: float) -> list[tuple[str, int]]:
        """End the windows that are over, and return the kinds and numbers of the lines they suppressed."""
        with self._lock:
            over = [
                kind for kind, window in self._windows.items() if now - window.began >= self._limit.seconds
            ]
            windows = [(kind, self._windows.pop(kind)) for kind in over]
        return [(kind, window.suppressed) for kind, window in windows if window.suppressed]
