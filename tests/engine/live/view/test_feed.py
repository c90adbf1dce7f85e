"""What the page knows of the service: newest images, figures, and messages that cannot be read."""

import asyncio
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InputError
from engine.live.loop.counters import DropReason
from engine.live.view import feed as view_feed
from engine.live.view.feed import KEPT_IMAGES, ViewFeed
from engine.live.view.latency_window import BINS, WINDOW, LatencyWindow, round_up
from engine.live.wire.messages import IMAGE_TOPIC, encode_image
from tests.engine.live.view.fake_service import DEADLINE_MS, GRID, FakeService

WAIT = 20.0
"""Seconds after which something that should have happened never will."""


def watch(service: FakeService, work) -> ViewFeed:
    """Run a feed on a service while `work(feed, wait)` runs; `wait` waits for a condition."""
    feed = ViewFeed(service.endpoint)

    async def wait(condition) -> None:
        async with asyncio.timeout(WAIT):
            while not condition():
                await asyncio.sleep(0.005)

    async def run() -> None:
        task = asyncio.create_task(feed.run())
        try:
            await asyncio.to_thread(service.wait_for_subscriber)
            await work(feed, wait)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    return feed


def parts_of(service: FakeService, **changes) -> list[bytes]:
    """The message of an image, with other values in its header."""
    live = service.image()
    parts = encode_image(live, service.ledger.counters())
    parts[1] = json.dumps(json.loads(parts[1]) | changes).encode()
    return parts


def test_images_and_figures_come_as_they_were_sent(fake_service) -> None:
    service = fake_service(coverage=0.9)

    async def work(feed, wait) -> None:
        await wait(lambda: feed.figures()["connected"])
        service.status()
        sent = service.image(latency_ms=31.5)
        await wait(lambda: feed.newest is not None)
        newest = feed.newest
        assert (newest.number, newest.sequence, newest.grid) == (1, 0, GRID)
        np.testing.assert_array_equal(newest.message.image, sent.image)
        values = np.frombuffer(newest.arrays, "<f4").reshape(3, 1, 13, 26)
        np.testing.assert_array_equal(values, [sent.image, sent.interval.low, sent.interval.high])
        assert newest.n_bytes == values.nbytes
        assert json.loads(newest.page_header)["report"] == sent.report.to_dict()
        await wait(lambda: feed.figures()["latency"]["n"] == 1)
        figures = feed.figures()
        assert figures["latency"]["p50_ms"] == 31.5
        assert figures["deadline_ms"] == DEADLINE_MS
        assert figures["counters"] == service.ledger.counters().to_dict()
        assert figures["background"]["n_frames"] == 40
        assert figures["status"]["model"] == "fast"
        json.dumps(figures, allow_nan=False)

    watch(service, work)


def test_every_image_is_fetched_and_the_newest_kept(fake_service) -> None:
    service = fake_service()

    async def work(feed, wait) -> None:
        for _ in range(100):
            service.image()
        await wait(lambda: feed.n_images == 100)
        assert [image.number for image in feed.images] == list(range(101 - KEPT_IMAGES, 101))
        assert feed.newest.sequence == 99

    watch(service, work)


def test_large_images_are_kept_within_a_budget(fake_service, monkeypatch) -> None:
    service, feed = fake_service(), ViewFeed("tcp://127.0.0.1:1")
    one = GRID.n_voxels * 4
    monkeypatch.setattr(view_feed, "KEPT_BYTES", 3 * one)
    for _ in range(5):
        feed.take(parts_of(service))
    assert [image.number for image in feed.images] == [3, 4, 5]
    monkeypatch.setattr(view_feed, "KEPT_BYTES", one // 2)
    feed.take(parts_of(service))
    assert [image.number for image in feed.images] == [6]


def test_connection_comes_back_with_the_service(fake_service) -> None:
    service = fake_service()

    async def work(feed, wait) -> None:
        service.drop(DropReason.OVERTAKEN, 3)
        service.image()
        await wait(lambda: feed.n_images == 1)
        service.close()
        await wait(lambda: not feed.figures()["connected"])
        assert feed.figures()["image_age_s"] > 0
        again = fake_service(service.endpoint)
        await asyncio.to_thread(again.wait_for_subscriber)
        await wait(lambda: feed.figures()["connected"])
        again.image(latency_ms=5.0)
        await wait(lambda: feed.n_images == 2)
        await asyncio.sleep(view_feed.HISTOGRAM_PERIOD)
        assert feed.figures()["latency"]["max_ms"] == 5.0  # those of the former run are gone

    watch(service, work)


@pytest.mark.parametrize(
    "changes",
    [
        {"report": None},
        {"report": {"sequence": 1, "latency_ms": "fast", "flags": []}},
        {"report": {"sequence": 1, "latency_ms": 1.0, "flags": [1]}},
        {"report": {"sequence": 1, "latency_ms": 1.0, "flags": [], "more": math.nan}},
        {"counters": [1]},
        {"counters": {"frames_in": math.inf}},
        {"background": "none"},
        {"grid": {"size": [26, 13, 1], "field_of_view": [1, 1, 0], "center": [0, 0, 0]}},
        {"grid": {"size": [13, 26, 1], "field_of_view": [1, 1, 1], "center": [0, 0, 0]}},
        {"grid": {"size": 3}},
        {"version": 2},
        {"shape": [1, 13, 27]},
    ],
    ids=lambda changes: json.dumps(changes)[:40],
)
def test_messages_against_the_rules_are_counted_and_change_nothing(fake_service, changes) -> None:
    service, feed = fake_service(), ViewFeed("tcp://127.0.0.1:1")
    feed.take(parts_of(service, **changes))
    assert sum(feed.figures()["malformed"].values()) == 1
    assert feed.newest is None
    feed.take(parts_of(service))
    assert feed.newest is not None


@given(st.lists(st.binary(max_size=64), max_size=4), st.sampled_from([b"image", b"status", b"imag"]))
def test_no_message_ends_the_feed(rest, topic) -> None:
    feed = ViewFeed("tcp://127.0.0.1:1")
    feed.take([topic, *rest])
    assert sum(feed.figures()["malformed"].values()) == 1
    json.dumps(feed.figures(), allow_nan=False)


def test_deadline_must_be_one(fake_service) -> None:
    feed = ViewFeed("tcp://127.0.0.1:1")
    header = {"kind": "deq-mpi-status", "version": 1, "deadline_ms": -3}
    feed.take([b"status", json.dumps(header).encode()])
    assert feed.figures()["malformed"] == {"value": 1}
    assert feed.figures()["status"] is None


@pytest.mark.parametrize("source", ["127.0.0.1:5556", "http://127.0.0.1:5556", "", "tcp://"])
def test_address_that_is_none(source) -> None:
    with pytest.raises(InputError, match="cannot subscribe"):
        asyncio.run(ViewFeed(source).run())


def test_topic_alone_is_malformed() -> None:
    feed = ViewFeed("tcp://127.0.0.1:1")
    feed.take([IMAGE_TOPIC])
    assert feed.figures()["malformed"] == {"parts": 1}


@pytest.mark.parametrize("deadline", [None, 43.0, 5.0])
def test_histogram_holds_every_latency(deadline) -> None:
    window = LatencyWindow()
    values = np.random.default_rng(1).gamma(9.0, 3.0, 500)
    for value in values:
        window.add(value)
    found = window.histogram(deadline)
    assert sum(found["counts"]) + found["above"] == found["n"] == 500
    assert len(found["counts"]) == BINS
    middle = BINS // 2
    assert sum(found["counts"][:middle]) == np.count_nonzero(values < found["top_ms"] / 2)
    assert found["p99_ms"] == pytest.approx(np.sort(values)[494:496].mean(), rel=0.05)
    assert found["top_ms"] >= found["p99_ms"]
    assert deadline is None or deadline < found["top_ms"]


def test_histogram_is_of_the_newest_and_of_none() -> None:
    window = LatencyWindow()
    assert window.histogram(43.0) | {"counts": []} == {
        "top_ms": 86.0, "counts": [], "above": 0, "n": 0, "p50_ms": None, "p99_ms": None, "max_ms": None
    }  # fmt: skip
    for value in (*[500.0] * 10, *[7.0] * WINDOW):
        window.add(value)
    assert window.histogram(None)["max_ms"] == 7.0
    window.clear()
    assert window.histogram(None)["n"] == 0


@given(st.floats(1e-3, 1e9))
def test_rounding_up_goes_to_a_near_round_number(value) -> None:
    found = round_up(value)
    assert found >= value
    assert found == 1.0 or found <= 2.0 * value
    assert found / 10.0 ** math.floor(math.log10(found) + 1e-9) == pytest.approx(
        round(found / 10.0 ** math.floor(math.log10(found) + 1e-9))
    )
