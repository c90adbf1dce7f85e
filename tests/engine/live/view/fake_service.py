"""A publisher that sends what `engine serve` sends: moving blobs with real reports and a real ledger."""

import itertools
import time
from typing import Any

import numpy as np
import zmq

from engine.fixed_point.solution import Result
from engine.live.loop.counters import DropReason, Ledger
from engine.live.loop.live_image import BackgroundState, Flag, LiveImage, LiveReport
from engine.live.wire.messages import encode_image, encode_status
from engine.mpi.grid import Grid
from engine.networks.interval_table import Interval
from engine.reconstruction.report import FrameReport

GRID = Grid((26, 13, 1), (0.052, 0.026, 0.002), (0.004, -0.002, 0.0))
VOLUME = Grid((12, 8, 5), (0.024, 0.016, 0.020), (0.0, 0.001, -0.003))
DEADLINE_MS = 43.0


def blobs(grid: Grid, phase: float) -> np.ndarray:
    """Two blobs that move with the phase, peak about 1; values differ in every voxel."""
    places = (grid.positions() - np.array(grid.center)) / np.array(grid.field_of_view)
    middle = np.array(
        [[0.28 * np.cos(phase), 0.25 * np.sin(phase), 0.1], [-0.2, 0.1 * np.cos(2 * phase), -0.2]]
    )
    widths = np.array([[0.09, 0.16, 0.3], [0.16, 0.09, 0.3]])
    heights = np.array([1.0, 0.55])
    waves = np.exp(-0.5 * (((places[:, np.newaxis] - middle) / widths) ** 2).sum(axis=2)) @ heights
    return grid.to_volume(waves).astype(np.float32)


class FakeService:
    """Publishes from the thread that calls it.

    Parameters
    ----------
    endpoint : str
        Where to publish; by default a free port of loopback.
    grid : Grid
        Of the images.
    coverage : float or None
        With it images have intervals.
    """

    def __init__(
        self, endpoint: str = "tcp://127.0.0.1:*", grid: Grid = GRID, coverage: float | None = None
    ) -> None:
        self.grid, self.coverage = grid, coverage
        self.ledger = Ledger()
        self.recording: dict[str, Any] | None = None
        self.background = BackgroundState(n_frames=40, age_s=63.0, sigma=1.04, drift=0.31)
        self._started = time.monotonic()
        self._sequence = itertools.count()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)  # it tells when a subscriber is there
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.RCVTIMEO, 20_000)
        self._socket.bind(endpoint)
        self.endpoint = self._socket.get(zmq.LAST_ENDPOINT).decode().rstrip("\0")

    def close(self) -> None:
        self._context.destroy(linger=0)

    def __enter__(self) -> "FakeService":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait_for_subscriber(self) -> None:
        """Block until somebody has subscribed to both topics."""
        while {self._socket.recv()[1:], self._socket.recv()[1:]} != {b"image", b"status"}:
            pass

    def status(self, **changes: Any) -> None:
        values = {
            "state": "running",
            "policy": "latest",
            "deadline_ms": DEADLINE_MS,
            "method": "deq",
            "model": "fast",
            "operators_sha256": "5f3c0a9be1" + 54 * "0",
            "counters": self.ledger.counters().to_dict(),
            "background": self.background.to_dict(),
            "recording": self.recording,
            "swap": None,
            "uptime_s": time.monotonic() - self._started,
        }
        self._socket.send_multipart(encode_status(values | changes))

    def drop(self, reason: DropReason, n_frames: int = 1) -> None:
        """Let frames come and go without an image."""
        for _ in range(n_frames):
            next(self._sequence)
            self.ledger.frame()
        self.ledger.drop(reason, n_frames)

    def image(
        self, *, flags: tuple[Flag, ...] = (), latency_ms: float = 27.0, scale: float = 1.0
    ) -> LiveImage:
        """Publish the image of the next frame and return it."""
        sequence = next(self._sequence)
        self.ledger.frame()
        image = scale * blobs(self.grid, 0.07 * sequence)
        self.ledger.image(1, is_late=Flag.LATE in flags, is_converged=Flag.NOT_CONVERGED not in flags)
        live = LiveImage(
            image,
            self._interval(image, Flag.DEADLINE not in flags),
            self.grid,
            self.background,
            self._report(sequence, flags, latency_ms),
        )
        self._socket.send_multipart(encode_image(live, self.ledger.counters()))
        return live

    def send(self, parts: list[bytes]) -> None:
        """Publish something as it is."""
        self._socket.send_multipart(parts)

    def _interval(self, image: np.ndarray, has_interval: bool) -> Interval | None:
        if self.coverage is None or not has_interval:
            return None
        half = 0.03 + 0.12 * np.sqrt(image * image.max())
        return Interval(np.maximum(image - half, 0), (image + half).astype(np.float32), self.coverage, False)

    def _report(self, sequence: int, flags: tuple[Flag, ...], latency_ms: float) -> LiveReport:
        now = time.time_ns()
        waited = 0.2 * latency_ms
        frame = FrameReport(
            method="deq",
            result=Result.MAX_ITERATIONS if Flag.NOT_CONVERGED in flags else Result.CONVERGED,
            iterations=11,
            residuals=tuple(0.5 * 0.4**k for k in range(11)),
            restarts=0,
            residual_over_epsilon=0.97,
            sigma=1.02,
            snr_db=23.4,
            weights={},
            weights_clamped=False,
            interval_coverage=self.coverage,
            interval_clamped=False,
            intensity=0.8,
            milliseconds=latency_ms - waited,
        )
        return LiveReport(
            sequence=sequence,
            first_sequence=sequence,
            n_frames=1,
            stream="test",
            acquired_ns=now - round(1e6 * latency_ms),
            received_ns=now - round(1e6 * latency_ms),
            finished_ns=now,
            waited_ms=waited,
            latency_ms=latency_ms,
            flags=flags,
            saturated_channels=(1,) if Flag.SATURATED in flags else (),
            residual_ratio=2.9 if Flag.RESIDUAL in flags else 0.83,
            frame=frame,
        )
