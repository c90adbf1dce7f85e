"""Logs: every line is complete and of known keys, and a flood becomes a few lines with an exact count."""

import io
import json
import logging
import math
import re
import threading
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("pythonjsonlogger")

from engine.live.service.logs import EventLimiter, LimitedHandler, RateLimit, log_event, structured_logs

LOG = logging.getLogger("engine.live.tests")


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def lines(stream: io.StringIO) -> list[dict]:
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in stream.getvalue().splitlines()]


def test_line_has_its_fixed_keys_first_and_its_fields(stream: io.StringIO) -> None:
    with structured_logs(stream=stream):
        log_event(LOG, logging.INFO, "started", endpoint="tcp://127.0.0.1:5555", deadline_ms=43.0)
    (line,) = lines(stream)
    assert list(line) == ["time", "level", "event", "endpoint", "deadline_ms"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert {key: line[key] for key in line if key != "time"} == {
        "level": "info",
        "event": "started",
        "endpoint": "tcp://127.0.0.1:5555",
        "deadline_ms": 43.0,
    }


def test_time_is_utc(stream: io.StringIO) -> None:
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, "hello", None, None)
    record.created, record.msecs = (
        1764000000.0625,
        62.5,
    )  # 2025-11-24 16:00:00 UTC by `date -u -d @1764000000`
    with structured_logs(stream=stream) as handler:
        handler.emit(record)
    assert lines(stream)[0]["time"] == "2025-11-24T16:00:00.062Z"


def test_values_that_json_does_not_know(stream: io.StringIO) -> None:
    with structured_logs(stream=stream):
        log_event(
            LOG,
            logging.INFO,
            "values",
            nan=math.nan,
            infinity=[math.inf],
            array=np.arange(2),
            number=np.float32(0.5),
            nested={"a": (1, {2: -math.inf})},
            error=ValueError("x"),
            surrogate="\ud800",
        )
    (line,) = lines(stream)
    assert line["nan"] == "nan"
    assert line["infinity"] == ["inf"]
    assert line["array"] == "[0 1]"
    assert line["number"] == "0.5"
    assert line["nested"] == {"a": [1, {"2": "-inf"}]}
    assert line["error"] == "x"


@given(st.text())
@pytest.mark.parametrize("form", ["json", "text"])
def test_no_value_breaks_a_line(form: str, value: str) -> None:
    stream = io.StringIO()
    with structured_logs(form, stream=stream):  # type: ignore[arg-type]
        log_event(LOG, logging.INFO, "value", value=value)
        LOG.info("%s", value)
    found = stream.getvalue()
    assert found.count("\n") == 2
    assert found.endswith("\n")
    assert found.replace("\n", "").replace("\x7f", "").isprintable()
    assert found.isascii()
    if form == "json":
        first, second = lines(stream)
        assert first["value"] == value
        assert second == {
            "time": second["time"],
            "level": "info",
            "event": "log",
            "logger": LOG.name,
            "message": value,
        }


def test_text_for_people(stream: io.StringIO) -> None:
    with structured_logs("text", stream=stream):
        log_event(LOG, logging.WARNING, "recording-stopped", reason="no space left", frames=7)
    assert re.fullmatch(
        r'\S+Z warning  recording-stopped reason="no space left" frames=7\n', stream.getvalue()
    )


def test_exception_is_one_line(stream: io.StringIO) -> None:
    with structured_logs(stream=stream):
        try:
            int("no\nimage")
        except ValueError:
            LOG.exception("failed")
    (line,) = lines(stream)
    assert (line["level"], line["error"]) == ("error", "ValueError")
    assert line["error_message"].startswith("invalid literal")
    assert "test_logs.py" in line["traceback"]


def test_what_a_library_attaches_takes_no_fixed_key(stream: io.StringIO) -> None:
    with structured_logs(stream=stream):
        LOG.info("hello", extra={"time": 1, "level": "none", "event": "mine", "path": "/metrics"})
    (line,) = lines(stream)
    assert list(line)[:3] == ["time", "level", "event"]
    assert (line["level"], line["event"], line["message"], line["path"]) == (
        "info",
        "log",
        "hello",
        "/metrics",
    )
    assert line["time"].endswith("Z")


def test_level(stream: io.StringIO) -> None:
    with structured_logs(stream=stream, level=logging.WARNING):
        log_event(LOG, logging.INFO, "quiet")
        log_event(LOG, logging.WARNING, "loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_nothing_is_left_installed(stream: io.StringIO) -> None:
    before = list(logging.getLogger().handlers), logging.getLogger().level
    with structured_logs(stream=stream, level=logging.DEBUG):
        pass
    assert (list(logging.getLogger().handlers), logging.getLogger().level) == before
    LOG.warning("after")
    assert not stream.getvalue()


@pytest.mark.parametrize("name", ["time", "level", "event"])
def test_fixed_keys_are_no_fields(name: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        log_event(LOG, logging.INFO, "x", **{name: 1})


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def logger(stream: io.StringIO, clock: Clock):
    """A logger with a limit of 3 lines in 10 seconds, and its handler."""
    handler = LimitedHandler(stream, RateLimit(3, 10.0), clock)
    with structured_logs(stream=io.StringIO()) as other:
        handler.setFormatter(other.formatter)
    found = logging.Logger("limited")
    found.addHandler(handler)
    return found


def test_flood_becomes_a_few_lines_and_a_count(
    logger: logging.Logger, stream: io.StringIO, clock: Clock
) -> None:
    for number in range(1000):
        log_event(logger, logging.WARNING, "rejected", number=number)
        clock.now += 0.001
    log_event(logger, logging.WARNING, "other")  # another kind is not held up
    assert [line["event"] for line in lines(stream)] == ["rejected"] * 3 + ["other"]
    clock.now += 10
    log_event(logger, logging.WARNING, "rejected", number=1000)
    found = lines(stream)[4:]
    assert [line["event"] for line in found] == ["suppressed", "rejected"]
    assert found[0].items() >= {"level": "warning", "of": "rejected", "count": 997, "seconds": 10.0}.items()
    assert found[1]["number"] == 1000


def test_account_of_a_flood_that_has_ended(logger: logging.Logger, stream: io.StringIO, clock: Clock) -> None:
    (handler,) = logger.handlers
    assert isinstance(handler, LimitedHandler)
    for _ in range(5):
        log_event(logger, logging.INFO, "late")
    handler.summarise()
    assert len(lines(stream)) == 3
    clock.now += 10
    handler.summarise()
    handler.summarise()
    assert [line.get("count") for line in lines(stream)] == [None] * 3 + [2]


def test_account_at_the_end(logger: logging.Logger, stream: io.StringIO) -> None:
    for _ in range(5):
        log_event(logger, logging.INFO, "late")
    logger.handlers[0].close()
    assert lines(stream)[-1]["count"] == 2


def test_other_libraries_are_limited_by_place(logger: logging.Logger, stream: io.StringIO) -> None:
    for number in range(10):
        logger.info("message %d", number)
    logger.info("another place")
    assert [line["message"] for line in lines(stream)] == [
        "message 0",
        "message 1",
        "message 2",
        "another place",
    ]


def test_size_of_a_long_flood_is_bounded(logger: logging.Logger, stream: io.StringIO, clock: Clock) -> None:
    for _ in range(10_000):  # 100 seconds
        log_event(logger, logging.INFO, "late")
        clock.now += 0.01
    logger.handlers[0].close()
    found = lines(stream)
    assert len(found) <= 10 * (3 + 1) + 4
    assert sum(line.get("count", 1) for line in found) == 10_000


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 4)), max_size=60),
    st.integers(1, 4),
    st.floats(0.5, 10),
)
def test_every_line_is_admitted_or_counted(
    events: list[tuple[str, float]], per_window: int, seconds: float
) -> None:
    limiter = EventLimiter(RateLimit(per_window, seconds))
    now = 0.0
    admitted: Counter[str] = Counter()
    suppressed: Counter[str] = Counter()
    for kind, pause in events:
        now += pause
        suppressed.update(dict(limiter.ended(now)))
        admitted[kind] += limiter.admit(kind, now)
    suppressed.update(dict(limiter.ended(math.inf)))
    sent = Counter(kind for kind, _ in events)
    assert admitted + suppressed == sent
    for kind in sent:
        windows = now / seconds + 1
        assert admitted[kind] <= per_window * windows


def test_threads(logger: logging.Logger, stream: io.StringIO) -> None:
    def flood() -> None:
        for _ in range(500):
            log_event(logger, logging.INFO, "late")

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    logger.handlers[0].close()
    assert sum(line.get("count", 1) for line in lines(stream)) == 2000
