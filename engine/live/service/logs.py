"""Structured logs: one event per line, for machines or for people, and never a flood of them.

Every line has a time, a level and the name of an event, and the fields that belong to it.
"""

import json
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from pythonjsonlogger.json import JsonFormatter


@dataclass(frozen=True)
class RateLimit:
    """Limit on how many lines of one kind are written.

    Attributes
    ----------
    lines : int
        Number of lines in one window; at least 1.
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
    """Limiter that admits lines by kind, and keeps account of those it did not admit; from any thread.

    Parameters
    ----------
    limit : RateLimit
        Limit of each kind.
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


LogFormat = Literal["json", "text"]

FIXED_KEYS = ("time", "level", "event")
"""Keys of every line; fields have other names."""

OTHER_EVENT = "log"
"""Event of lines that other libraries write; their text is the field `message`."""

SUPPRESSED_EVENT = "suppressed"
"""Event of a line that stands for others: fields `of` (their event), `count` and `seconds`."""


def log_event(logger: logging.Logger, level: int, event: str, **fields: Any) -> None:
    """Write an event.

    Parameters
    ----------
    logger : logging.Logger
        Logger, usually that of the module.
    level : int
        Level, such as ``logging.INFO``.
    event : str
        Name out of few, not made of data: lines are limited by it.
    **fields
        Values of any type; what JSON cannot hold is written as text.

    Raises
    ------
    ValueError
        If a field has the name of a fixed key.
    """
    if clash := fields.keys() & set(FIXED_KEYS):
        raise ValueError(f"a field is named {min(clash)}; expected other names than {', '.join(FIXED_KEYS)}")
    logger.log(level, {"event": event} | fields, stacklevel=2)


@contextmanager
def structured_logs(
    form: LogFormat = "json",
    *,
    level: int = logging.INFO,
    stream: TextIO | None = None,
    limit: RateLimit | None = None,
) -> Iterator["LimitedHandler"]:
    """Write what is logged anywhere in this process, within the block.

    Parameters
    ----------
    form : {"json", "text"}
        Form for machines or for people.
    level : int
        Least level that is written.
    stream : file, optional
        File to write to; standard error by default.
    limit : RateLimit, optional
        Limit of the lines of each event.

    Yields
    ------
    LimitedHandler
        Handler, of which `summarise` should be called now and then.
    """
    handler = LimitedHandler(stream or sys.stderr, limit or RateLimit())
    handler.setFormatter(_JsonLines() if form == "json" else _TextLines())
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(level)
    try:
        yield handler
    finally:
        root.setLevel(before)
        root.removeHandler(handler)
        handler.close()


class LimitedHandler(logging.StreamHandler[TextIO]):
    """Handler that writes at most so many lines of each event in a while, then how many were left out.

    Events of this project are told apart by their names, lines of other libraries by their place in the code.

    Parameters
    ----------
    stream : file
        File to write to; it is not closed with the handler.
    limit : RateLimit
        Limit of each kind of line.
    clock : callable
        Function that returns seconds that never go back.
    """

    def __init__(self, stream: TextIO, limit: RateLimit, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._limit = limit
        self._limiter = EventLimiter(limit)
        self._clock = clock

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it."""
        self.summarise()
        if self._limiter.admit(_event(record) or f"{record.name}:{record.lineno}", self._clock()):
            super().emit(record)

    def summarise(self) -> None:
        """Write what was left out in the windows that are over.

        Every line that is logged does this. Call it now and then as well, or the account of a flood waits for
        the next line.
        """
        self._write_summaries(self._limiter.ended(self._clock()))

    def close(self) -> None:
        """Write what was left out so far."""
        self._write_summaries(self._limiter.ended(math.inf))
        super().close()

    def _write_summaries(self, suppressed: list[tuple[str, int]]) -> None:
        for kind, count in suppressed:
            line = {"event": SUPPRESSED_EVENT, "of": kind, "count": count, "seconds": self._limit.seconds}
            self.acquire()
            try:
                super().emit(logging.makeLogRecord({"levelname": "WARNING", "msg": line}))
            finally:
                self.release()


class _JsonLines(JsonFormatter):
    """One JSON object per line: the fixed keys, then the fields of the event."""

    def __init__(self) -> None:
        names = {"asctime": "time", "levelname": "level", "exc_info": "traceback"}
        super().__init__("{asctime}{levelname}", style="{", rename_fields=names)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return time.replace("+00:00", "Z")

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        event = _event(record)
        fields = {"logger": record.name, "message": record.message} if event is None else {}
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            fields |= {"error": type(error).__name__, "error_message": str(error)}
        fixed = {"time": record.asctime, "level": record.levelname.lower(), "event": event or OTHER_EVENT}
        super().add_fields(log_data, record, fixed | fields | message_dict)
        log_data.update(fixed)  # whatever another library attaches to its records

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        return {key: _plain(value) for key, value in log_data.items()}


class _TextLines(_JsonLines):
    """The same for people: the fixed keys without their names."""

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        head = [log_data.pop("time"), f"{log_data.pop('level'):<8}", log_data.pop("event")]
        # As JSON, so that a value cannot break the line or reach the terminal.
        return " ".join([*head, *(f"{key}={json.dumps(value)}" for key, value in log_data.items())])


def _event(record: logging.LogRecord) -> str | None:
    """Return the event of a record; None for those of other libraries."""
    return record.msg.get("event") if isinstance(record.msg, dict) else None


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold: what it cannot is shown as text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return str(value)
