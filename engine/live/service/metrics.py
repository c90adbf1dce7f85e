"""Metrics for Prometheus: the state of the service, and the distribution of what its images took."""

import platform
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from engine.live.loop.counters import DropReason
from engine.live.loop.live_image import LiveReport
from engine.live.service.state import ServiceState
from engine.live.wire.messages import REASONS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Content type of the answer to a scrape: the text format of Prometheus."""

LATENCY_MS = (5, 7.5, 10, 12.5, 15, 17.5, 20, 25, 30, 35, 40, 50, 60, 80, 100, 150, 200)
"""Bounds of the buckets of the latency, besides the deadline."""

ITERATIONS = (1, 2, 3, 5, 7, 10, 12, 15, 20, 25, 50, 100, 200)
"""Bounds of the buckets of the iterations."""

STATES = ("starting", "running", "stopping")


class LiveMetrics:
    """The metrics of one service, in a registry of their own.

    Counts come from the account of the service at the moment of the scrape, so they are exactly those of its
    status messages; histograms are fed image by image.

    Parameters
    ----------
    snapshot : callable
        Function that returns the state of this moment; called once for each scrape, from any thread.
    deadline_ms : float, optional
        Deadline, which gets a bound of its own among the buckets of the latency.
    """

    def __init__(self, snapshot: Callable[[], ServiceState], deadline_ms: float | None = None) -> None:
        self._registry = CollectorRegistry()
        bounds = sorted({*LATENCY_MS} | ({deadline_ms} if deadline_ms is not None else set()))
        self._latency = Histogram(
            "deqmpi_image_latency_seconds",
            "From the arrival of the newest frame of an image to the image.",
            buckets=[1e-3 * bound for bound in bounds],
            registry=self._registry,
        )
        self._iterations = Histogram(
            "deqmpi_image_iterations",
            "Iterations of the solve of an image.",
            buckets=ITERATIONS,
            registry=self._registry,
        )
        self._residual = _LastResidual()
        self._registry.register(self._residual)
        self._registry.register(_StateCollector(snapshot))

    def observe(self, report: LiveReport) -> None:
        """Take note of an image; from any thread."""
        self._latency.observe(1e-3 * report.latency_ms)
        self._iterations.observe(report.frame.iterations)
        self._residual.set(report.residual_ratio)

    def exposition(self) -> bytes:
        """Return everything in the text format of Prometheus (`CONTENT_TYPE`)."""
        return generate_latest(self._registry)


class _LastResidual(Collector):
    """Residual ratio of the last image; absent where the last image has none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value: float | None = None

    def set(self, value: float | None) -> None:
        with self._lock:
            self._value = value

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            value = self._value
        yield _gauge(
            "deqmpi_residual_ratio",
            "Norm of A x - y over what noise and model error explain, of the last image.",
            value,
        )


class _StateCollector(Collector):
    """The state of the service, read anew at every scrape."""

    def __init__(self, snapshot: Callable[[], ServiceState]) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering takes no snapshot of a service that is being built."""
        return ()

    def collect(self) -> Iterator[Metric]:
        state = self._snapshot()
        yield from _counts(state)
        yield from _gauges(state)
        yield _info(
            "deqmpi_build",
            "Versions, method and operators in use.",
            {
                "version": _version(),
                "python": platform.python_version(),
                "method": state.method,
                "model": state.model,
                "policy": state.policy,
                "operators_sha256": state.operators_sha256,
            },
        )


def _counts(state: ServiceState) -> Iterator[Metric]:
    counts = state.counters
    yield CounterMetricFamily("deqmpi_frames", "Frames of the object that arrived.", counts.frames_in)
    yield CounterMetricFamily("deqmpi_images", "Images handed on.", counts.images_out)
    yield CounterMetricFamily(
        "deqmpi_frames_averaged", "Frames in an image beside its newest one.", counts.averaged
    )
    reasons = [reason.value for reason in DropReason]
    yield _by_reason("deqmpi_frames_dropped", "Frames that got into no image.", counts.dropped, reasons)
    yield CounterMetricFamily("deqmpi_background_frames", "Background frames.", counts.background_in)
    yield CounterMetricFamily("deqmpi_images_late", "Images after their deadline.", counts.late)
    yield CounterMetricFamily(
        "deqmpi_images_not_converged", "Images whose solve did not meet its tolerance.", counts.not_converged
    )
    yield _by_reason(
        "deqmpi_messages_rejected", "Messages that were no frames.", counts.rejected, list(REASONS)
    )


def _gauges(state: ServiceState) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "deqmpi_frames_in_flight", "Frames that wait or are being reconstructed.", state.counters.in_flight
    )
    yield _gauge("deqmpi_oldest_frame_wait_seconds", "Of the oldest frame in flight.", state.oldest_wait_s)
    yield _gauge("deqmpi_last_image_age_seconds", "Since the last image.", state.last_image_age_s)
    deadline = None if state.deadline_ms is None else 1e-3 * state.deadline_ms
    yield _gauge("deqmpi_deadline_seconds", "From the arrival of a frame to its image.", deadline)
    yield GaugeMetricFamily("deqmpi_uptime_seconds", "Since the start.", state.uptime_s)
    background = state.background
    yield GaugeMetricFamily(
        "deqmpi_background_estimate_frames", "Background frames in what is subtracted.", background.n_frames
    )
    yield _gauge("deqmpi_background_age_seconds", "Since the newest background frame.", background.age_s)
    yield _gauge(
        "deqmpi_background_sigma", "Noise of the background frames over the calibration's.", background.sigma
    )
    yield _gauge(
        "deqmpi_background_drift",
        "Change since the first background, over the calibration's noise.",
        background.drift,
    )
    states = GaugeMetricFamily("deqmpi_state", "1 for what the service is doing.", labels=["state"])
    for name in STATES:
        states.add_metric([name], state.state == name)
    yield states
    recording = None if state.recording is None else float(state.recording.get("state") == "recording")
    yield _gauge("deqmpi_recording", "1 while recording, 0 if it has stopped.", recording)
    swap = None if state.swap is None else float(state.swap.get("state") in ("refused", "rolled-back"))
    yield _gauge("deqmpi_swap_failed", "1 if the last swap was refused or rolled back.", swap)


def _gauge(name: str, text: str, value: float | None) -> Metric:
    """Return a gauge that is absent, not 0 or NaN, while there is no value."""
    family = GaugeMetricFamily(name, text, labels=[])
    if value is not None:
        family.add_metric([], value)
    return family


def _by_reason(name: str, text: str, counts: Mapping[str, int], known: list[str]) -> Metric:
    """Return a counter by reason. Known reasons are there from the start: a rate needs the 0 before the 1."""
    family = CounterMetricFamily(name, text, labels=["reason"])
    for reason in sorted({*known, *counts}):
        family.add_metric([reason], counts.get(reason, 0))
    return family


def _info(name: str, text: str, labels: Mapping[str, str]) -> Metric:
    family = GaugeMetricFamily(f"{name}_info", text, labels=list(labels))
    family.add_metric(list(labels.values()), 1)
    return family


def _version() -> str:
    try:
        return version("deq-mpi")
    except PackageNotFoundError:  # run from a source tree
        return "unknown"
