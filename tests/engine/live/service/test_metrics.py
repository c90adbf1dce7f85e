"""Metrics, read back with Prometheus's own parser: names, types, and exactly the counts of the account."""

import threading
from collections.abc import Mapping
from dataclasses import replace

import pytest

from engine.fixed_point.solution import Result
from engine.live.loop.counters import Counters, DropReason, Ledger
from engine.live.loop.live_image import BackgroundState, LiveReport
from engine.live.service.state import ServiceState
from engine.live.wire.messages import REASONS
from engine.reconstruction.report import FrameReport

pytest.importorskip("prometheus_client")

from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from engine.live.service.metrics import LiveMetrics

STATE = ServiceState(
    state="running",
    policy="latest",
    deadline_ms=43.0,
    method="deq",
    model='fast "one"\n',
    operators_sha256="ab" * 32,
    counters=Counters(
        frames_in=20,
        images_out=9,
        averaged=4,
        dropped={"overtaken": 3, "duplicate": 2},
        in_flight=2,
        background_in=6,
        late=1,
        not_converged=5,
        rejected={"size": 7},
    ),
    background=BackgroundState(6, 20.0, 1.25, 0.5),
    recording={"state": "recording"},
    uptime_s=12.5,
    last_image_age_s=0.25,
    oldest_wait_s=0.125,
)


def samples(metrics: LiveMetrics) -> dict[tuple[str, frozenset], float]:
    """Every sample of a scrape by its name and labels; each occurs once."""
    found: dict[tuple[str, frozenset], float] = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        assert family.documentation
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def value(found: Mapping[tuple[str, frozenset], float], name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def names(found: Mapping[tuple[str, frozenset], float]) -> set[str]:
    return {name for name, _ in found}


def report(latency_ms: float, iterations: int = 8, residual: float | None = 0.9) -> LiveReport:
    frame = FrameReport(
        method="deq",
        result=Result.CONVERGED,
        iterations=iterations,
        residuals=(0.1,) * iterations,
        restarts=0,
        residual_over_epsilon=residual,
        sigma=1.0,
        snr_db=20.0,
        weights={},
        weights_clamped=False,
        interval_coverage=None,
        interval_clamped=False,
        intensity=1.0,
        milliseconds=latency_ms,
    )
    return LiveReport(1, 1, 1, "", None, 0, 0, 0.0, latency_ms, (), (), residual, frame)


def test_counts_are_those_of_the_account() -> None:
    found = samples(LiveMetrics(lambda: STATE))
    assert value(found, "deqmpi_frames_total") == 20
    assert value(found, "deqmpi_images_total") == 9
    assert value(found, "deqmpi_frames_averaged_total") == 4
    assert value(found, "deqmpi_frames_in_flight") == 2
    assert value(found, "deqmpi_background_frames_total") == 6
    assert value(found, "deqmpi_images_late_total") == 1
    assert value(found, "deqmpi_images_not_converged_total") == 5
    dropped = {reason: value(found, "deqmpi_frames_dropped_total", reason=reason) for reason in DropReason}
    assert dropped == dict.fromkeys(DropReason, 0) | {"overtaken": 3, "duplicate": 2}
    rejected = {reason: value(found, "deqmpi_messages_rejected_total", reason=reason) for reason in REASONS}
    assert rejected == dict.fromkeys(REASONS, 0) | {"size": 7}


def test_gauges() -> None:
    found = samples(LiveMetrics(lambda: STATE))
    assert value(found, "deqmpi_background_estimate_frames") == 6
    assert value(found, "deqmpi_background_age_seconds") == 20
    assert value(found, "deqmpi_background_sigma") == 1.25
    assert value(found, "deqmpi_background_drift") == 0.5
    assert value(found, "deqmpi_uptime_seconds") == 12.5
    assert value(found, "deqmpi_last_image_age_seconds") == 0.25
    assert value(found, "deqmpi_oldest_frame_wait_seconds") == 0.125
    assert value(found, "deqmpi_deadline_seconds") == pytest.approx(0.043)
    assert value(found, "deqmpi_recording") == 1
    assert [value(found, "deqmpi_state", state=state) for state in ("starting", "running", "stopping")] == [
        0,
        1,
        0,
    ]
    (info,) = [dict(labels) for name, labels in found if name == "deqmpi_build_info"]
    assert info.keys() == {"version", "python", "method", "model", "policy", "operators_sha256"}
    assert (info["method"], info["model"], info["policy"]) == ("deq", 'fast "one"\n', "latest")


def test_what_there_is_not_is_absent() -> None:
    state = replace(
        STATE,
        deadline_ms=None,
        background=BackgroundState(),
        recording=None,
        last_image_age_s=None,
        oldest_wait_s=None,
    )
    found = names(samples(LiveMetrics(lambda: state)))
    assert not found & {
        "deqmpi_deadline_seconds",
        "deqmpi_background_age_seconds",
        "deqmpi_background_sigma",
        "deqmpi_background_drift",
        "deqmpi_recording",
        "deqmpi_swap_failed",
        "deqmpi_last_image_age_seconds",
        "deqmpi_oldest_frame_wait_seconds",
        "deqmpi_residual_ratio",
    }


@pytest.mark.parametrize(("state", "expected"), [("accepted", 0), ("refused", 1), ("rolled-back", 1)])
def test_swap(state: str, expected: int) -> None:
    found = samples(LiveMetrics(lambda: replace(STATE, swap={"state": state})))
    assert value(found, "deqmpi_swap_failed") == expected


def test_recording_that_stopped() -> None:
    found = samples(LiveMetrics(lambda: replace(STATE, recording={"state": "stopped"})))
    assert value(found, "deqmpi_recording") == 0


def test_latency_has_a_bucket_that_ends_at_the_deadline() -> None:
    metrics = LiveMetrics(lambda: STATE, deadline_ms=43.0)
    for latency in (4.0, 5.0, 42.9, 43.0, 43.1, 500.0):
        metrics.observe(report(latency))
    found = samples(metrics)
    buckets = {
        float(dict(labels)["le"]): count
        for (name, labels), count in found.items()
        if name == "deqmpi_image_latency_seconds_bucket"
    }
    by_ms = {round(1e3 * bound, 6): count for bound, count in buckets.items()}
    assert (by_ms[5], by_ms[7.5], by_ms[40], by_ms[43], by_ms[50], by_ms[200]) == (2, 2, 2, 4, 5, 5)
    assert by_ms[float("inf")] == 6
    assert value(found, "deqmpi_image_latency_seconds_count") == 6
    assert value(found, "deqmpi_image_latency_seconds_sum") == pytest.approx(0.638)


def test_iterations_and_last_residual() -> None:
    metrics = LiveMetrics(lambda: STATE)
    metrics.observe(report(10, iterations=3, residual=2.0))
    metrics.observe(report(10, iterations=25, residual=0.75))
    found = samples(metrics)
    assert value(found, "deqmpi_image_iterations_bucket", le="3.0") == 1
    assert value(found, "deqmpi_image_iterations_bucket", le="20.0") == 1
    assert value(found, "deqmpi_image_iterations_bucket", le="25.0") == 2
    assert value(found, "deqmpi_image_iterations_sum") == 28
    assert value(found, "deqmpi_residual_ratio") == 0.75
    metrics.observe(report(10, residual=None))
    assert "deqmpi_residual_ratio" not in names(samples(metrics))


def test_every_scrape_is_one_moment() -> None:
    """Frames are counted while others scrape: the account adds up in each scrape."""
    ledger = Ledger()
    metrics = LiveMetrics(lambda: replace(STATE, counters=ledger.counters()))
    ending = threading.Event()

    def count() -> None:
        while not ending.is_set():
            ledger.frame()
            ledger.frame()
            ledger.drop(DropReason.OVERTAKEN)
            ledger.image(1, is_late=False, is_converged=True)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        for _ in range(50):
            found = samples(metrics)
            dropped = sum(
                count for (name, _), count in found.items() if name == "deqmpi_frames_dropped_total"
            )
            accounted = (
                value(found, "deqmpi_images_total")
                + value(found, "deqmpi_frames_averaged_total")
                + value(found, "deqmpi_frames_in_flight")
                + dropped
            )
            assert value(found, "deqmpi_frames_total") == accounted
    finally:
        ending.set()
        thread.join()


def test_services_share_nothing() -> None:
    before = set(REGISTRY._names_to_collectors)
    first, second = LiveMetrics(lambda: STATE), LiveMetrics(lambda: STATE)
    first.observe(report(10))
    assert value(samples(second), "deqmpi_image_latency_seconds_count") == 0
    assert set(REGISTRY._names_to_collectors) == before


def test_making_them_takes_no_snapshot() -> None:
    def fail() -> ServiceState:
        raise AssertionError

    LiveMetrics(fail)
