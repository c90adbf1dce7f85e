"""What the way costs: a frame into the service and an image back, without a reconstruction in between.

A process of its own sends frames of the reference scanner's size on a clock, as a scanner does, and
subscribes to the images; this process receives, decodes, and publishes an image for each.
"""

import multiprocessing
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from matplotlib.figure import Figure

from benchmarks.harness.benchmark_run import BenchmarkRun
from benchmarks.harness.record import markdown_table
from engine.errors import LiveError, MessageError
from engine.fixed_point.solution import Result
from engine.live.loop.counters import Counters
from engine.live.loop.live_image import BackgroundState, LiveImage, LiveReport
from engine.live.wire.frame_socket import FrameSocket
from engine.live.wire.image_socket import ImageSocket
from engine.live.wire.messages import IMAGE_TOPIC, decode_image, encode_frame, encode_image
from engine.measurement.raw_frame import RawFrame
from engine.mpi.grid import Grid
from engine.reconstruction.report import FrameReport

RATES = (46.4, 185.6)
"""Frames per second: the scanner's, and four times as many."""

SECONDS = 60.0
QUICK_SECONDS = 3.0

SHAPE = (60, 1, 130)
"""Of the spectra of a frame, complex64: 62 kB."""

GRID = Grid((26, 13, 1), (0.052, 0.026, 0.002))
"""Of the image, float32: 1.4 kB."""

WANTED_P99_MS = 3.0

WARM_UP = 50
"""Frames that are not counted: connections are made, and pages touched for the first time."""

PATIENCE = 10.0
"""Seconds after which an image is lost."""

LARGEST = 10**6

ROUND_TRIPS = "round_trips_ms"

Row = Mapping[str, Any]


def run(quick: bool, output: Path) -> None:
    """Measure each rate and write transport.json, transport.md and transport.png."""
    seconds = QUICK_SECONDS if quick else SECONDS
    config = {
        "quick": quick,
        "seconds": seconds,
        "frame_shape": list(SHAPE),
        "image_shape": list(GRID.volume_shape),
    }
    with BenchmarkRun("transport", output, config) as benchmark:
        benchmark.expect(len(RATES))
        for rate in RATES:
            benchmark.row({"rate_hz": rate}, lambda rate=rate: measure(rate, round(rate * seconds)))  # type: ignore[misc]
        rows = benchmark.rows
        blocks = [
            "A frame of 62 kB from a process of its own over ZeroMQ (TCP on the loopback) into the service, "
            "and an image of 1.4 kB back, with nothing reconstructed in between: encoding and decoding of "
            "both, and four changes of processes and threads. Frames are sent on a clock, whether or not the "
            "last image is back.",
            markdown_table(verdicts(rows)),
            "![Share of the round trips that took longer](transport.png)",
            "## All figures",
        ]
        benchmark.publish("Transport", blocks, {"transport.png": _picture(rows)}, hidden=[ROUND_TRIPS])


def verdicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return what was seen and wanted of each rate."""
    return [
        {
            "frames per second": row["rate_hz"],
            "p99 in ms": row["p99_ms"],
            "wanted": f"< {WANTED_P99_MS:g}",
            "lost": row["lost"],
            "wanted, lost": 0,
        }
        for row in rows
    ]


def measure(rate: float, count: int) -> dict[str, Any]:
    """Return the figures of so many frames at a rate.

    Raises
    ------
    LiveError
        If the process that sends the frames fails.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    refused: list[MessageError] = []
    with ImageSocket("tcp://127.0.0.1:*") as images:
        values = np.zeros(GRID.volume_shape, np.float32)

        def answer(frame: RawFrame, _parts: list[bytes]) -> None:
            images.send(encode_image(_image(values, frame.sequence), Counters()))

        with FrameSocket("tcp://127.0.0.1:*", LARGEST, answer, refused.append) as frames:
            producer = context.Process(
                target=produce, args=(theirs, frames.last_endpoint, images.last_endpoint, rate, count)
            )
            producer.start()
            theirs.close()  # so that the end of the process is noticed here
            try:
                round_trips: list[float] = ours.recv()
                sent_hz: float = ours.recv()
            except EOFError as error:
                raise LiveError("the process that sends frames has ended; its error is above") from error
            finally:
                producer.join()
                ours.close()
    p50, p99, p999 = np.percentile(round_trips, [50, 99, 99.9])
    return {
        "sent_hz": sent_hz,
        "frame_bytes": sum(map(len, encode_frame(_frame(0)))),
        "image_bytes": sum(map(len, encode_image(_image(values, 0), Counters()))),
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "p999_ms": float(p999),
        "max_ms": float(np.max(round_trips)),
        "n": count,
        "lost": count - len(round_trips),
        ROUND_TRIPS: [round(value, 4) for value in round_trips],
    }


def produce(answer: Connection, frames_at: str, images_at: str, rate: float, count: int) -> None:
    """Send frames on a clock; tell `answer` the milliseconds of each round trip, and the rate kept.

    It runs in a process of its own.
    """
    with (
        zmq.Context() as context,
        context.socket(zmq.SUB) as images,
        context.socket(zmq.PUSH) as frames,
    ):
        frames.setsockopt(zmq.LINGER, 0)
        images.subscribe(IMAGE_TOPIC)
        images.connect(images_at)
        frames.connect(frames_at)
        _connect(frames, images)
        sent: dict[int, int] = {}
        returned: dict[int, int] = {}
        total = count + WARM_UP
        began = time.perf_counter_ns()
        for number in range(total):
            while (left := began + round(1e9 * number / rate) - time.perf_counter_ns()) > 0:
                _collect(images, returned, left)
            sent[number] = time.perf_counter_ns()
            frames.send_multipart(encode_frame(_frame(number)))
        deadline = time.perf_counter_ns() + round(1e9 * PATIENCE)
        while len(returned) < total and (left := deadline - time.perf_counter_ns()) > 0:
            _collect(images, returned, left)
        counted = range(WARM_UP, total)
        answer.send([1e-6 * (returned[number] - sent[number]) for number in counted if number in returned])
        answer.send(1e9 * (count - 1) / (sent[total - 1] - sent[WARM_UP]))


def _connect(frames: "zmq.Socket[bytes]", images: "zmq.Socket[bytes]") -> None:
    """Send frames until an image comes back, then wait for the rest of them."""
    deadline = time.monotonic() + PATIENCE
    while not images.poll(100):
        frames.send_multipart(encode_frame(_frame(0)))
        if time.monotonic() > deadline:
            raise LiveError(f"no image within {PATIENCE:g} s; expected one for each frame")
    while images.poll(200):
        images.recv_multipart()


def _collect(images: "zmq.Socket[bytes]", returned: dict[int, int], patience_ns: int) -> None:
    """Wait for an image, but not for longer than that, and take note of when it was read."""
    # Of the last millisecond nothing is slept, as sleeping takes whole ones.
    if images.poll(patience_ns // 1_000_000):
        sequence = decode_image(images.recv_multipart()).header["report"]["sequence"]
        returned[sequence] = time.perf_counter_ns()


def _frame(number: int) -> RawFrame:
    return RawFrame(number, np.zeros(SHAPE, np.complex64), stream="transport", acquired_ns=time.time_ns())


def _image(values: np.ndarray[Any, np.dtype[np.float32]], number: int) -> LiveImage:
    solve = FrameReport(
        method="none",
        result=Result.DIRECT,
        iterations=0,
        residuals=(),
        restarts=0,
        residual_over_epsilon=None,
        sigma=None,
        snr_db=None,
        weights={},
        weights_clamped=False,
        interval_coverage=None,
        interval_clamped=False,
        intensity=0.0,
        milliseconds=0.0,
    )
    report = LiveReport(number, number, 1, "transport", None, 0, 0, 0.0, 0.0, (), (), None, solve)
    return LiveImage(values, None, GRID, BackgroundState(), report)


def _picture(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        times = np.sort(row[ROUND_TRIPS])
        axes.step(
            times, 1 - np.arange(times.size) / times.size, label=f"{row['rate_hz']:g} frames per second"
        )
    axes.axvline(WANTED_P99_MS, color="k", ls="--", lw=1, label="limit of the 99th percentile")
    axes.axhline(0.01, color="0.6", ls=":", lw=1)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="round trip in ms",
        ylabel="share that took longer",
        title="Frame in, image out, nothing in between",
    )
    axes.legend()
    axes.grid(alpha=0.3, which="both")
    return figure
