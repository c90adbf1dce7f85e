"""What the tests of the live loop share: small operators, made-up methods, frames and services."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.fixed_point.solution import Result
from engine.live.loop.live_image import BackgroundState, LiveImage, LiveReport
from engine.live.recording.config import RecordingConfig
from engine.live.recording.recorder import Recorder
from engine.measurement.raw_frame import RawFrame
from engine.mpi.grid import Grid
from engine.mpi.mdf import write_mdf
from engine.mpi.row_layout import Acquisition
from engine.networks.interval_table import Interval
from engine.reconstruction.reconstructor import Reconstructor
from engine.reconstruction.report import FrameReport
from engine.solvers.least_squares import LeastSquares
from tests.engine.live.view.fake_service import FakeService

WAIT_S = 20.0
"""Longest wait for something that is sure to happen: far beyond what a loaded machine takes."""


class GatedSolver:
    """Least squares that waits for the gate to open, and fails when it is told to.

    Attributes
    ----------
    gate : threading.Event
        Open at first.
    entered : threading.Semaphore
        Released once per solve that has begun.
    failure : BaseException or None
        Raised by every solve while it is set.
    """

    method = "least-squares"
    settings = {}  # noqa: RUF012 - nothing is to be set

    def __init__(self, operators):
        self._inner = LeastSquares(operators)
        self.operators = operators
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.failure = None

    def solve(self, measurements, /):
        self.entered.release()
        assert self.gate.wait(WAIT_S)
        if self.failure is not None:
            raise self.failure
        return self._inner.solve(measurements)

    def hold(self):
        """Close the gate and forget the solves so far."""
        self.gate.clear()
        while self.entered.acquire(blocking=False):
            pass

    def wait_until_held(self):
        """Return when a solve waits at the gate."""
        assert self.entered.acquire(timeout=WAIT_S)


@pytest.fixture
def make_solver():
    """The class, to be called with operators."""
    return GatedSolver


@pytest.fixture
def solver(operators, make_solver):
    return make_solver(operators)


@pytest.fixture
def reconstructor(solver):
    return Reconstructor(solver)


@pytest.fixture(scope="session")
def raw(scan):
    """Make raw frames: raw(sequence, concentrations (20,) or None for background, **RawFrame fields)."""

    def make(sequence, concentrations=None, seed=None, **fields):
        rng = np.random.default_rng([sequence, 3] if seed is None else seed)
        voxels = np.zeros(20) if concentrations is None else concentrations
        data = fields.pop("data", None)
        if data is None:
            data = scan.frames(voxels[None], rng)[0]
        return RawFrame(sequence, data, is_background=concentrations is None, **fields)

    return make


@pytest.fixture
def fake_service() -> Iterator[Callable[..., FakeService]]:
    """Make publishers that stand in for the service; all are closed at the end."""
    made: list[FakeService] = []

    def make(*args: Any, **settings: Any) -> FakeService:
        made.append(FakeService(*args, **settings))
        return made[-1]

    yield make
    for service in made:
        service.close()


N_PERIODS, N_CHANNELS, N_SAMPLES = 3, 2, 200
GRID = Grid((5, 4, 1), (0.010, 0.008, 0.002))
COVERAGE = 0.9


def frame_values(number: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Values that belong to one number only; written here and nowhere else."""
    start = np.arange(np.prod(shape)).reshape(shape)
    if np.dtype(dtype).kind == "c":
        return ((start + number) + 1j * (number - start)).astype(dtype)
    return (start % 100 + number).astype(dtype)


@dataclass(frozen=True)
class LiveScanner:
    """What the tests of the live loop feed in."""

    template: Path
    acquisition: Acquisition

    def frame(self, number: int, *, dtype: str = "complex64", stream: str = "run", **changes) -> RawFrame:
        """Frame of a stream; every seventh is a background frame."""
        columns = N_SAMPLES // 2 + 1 if np.dtype(dtype).kind == "c" else N_SAMPLES
        settings = {
            "sequence": number,
            "data": frame_values(number, (N_PERIODS, N_CHANNELS, columns), dtype),
            "stream": stream,
            "is_background": number % 7 == 0,
            "acquired_ns": 10**18 + number,
        }
        return RawFrame(**(settings | changes))

    def image(self, number: int, *, has_interval: bool = False) -> LiveImage:
        """Image of a frame; its values are its number."""
        volume = np.full(GRID.volume_shape, number, np.float32)
        interval = Interval(volume - 1, volume + 1, COVERAGE, clamped=False) if has_interval else None
        report = FrameReport(
            method="deq",
            result=Result.CONVERGED,
            iterations=7,
            residuals=(0.5, 0.25),
            restarts=0,
            residual_over_epsilon=1.0,
            sigma=1.0,
            snr_db=20.0,
            weights={},
            weights_clamped=False,
            interval_coverage=COVERAGE if has_interval else None,
            interval_clamped=False,
            intensity=1.0,
            milliseconds=2.5,
        )
        live = LiveReport(number, number, 1, "run", None, 1, 2, 0.1, 2.6, (), (), None, report)
        return LiveImage(volume, interval, GRID, BackgroundState(), live)


@pytest.fixture(scope="session")
def scanner(scan, tmp_path_factory):
    """The scanner of `scan` with a calibration file as template."""
    template = tmp_path_factory.mktemp("template") / "calibration.mdf"
    write_mdf(template, scan.calibration())
    acquisition = Acquisition(
        bandwidth=10e3,
        n_samples=N_SAMPLES,
        n_periods=N_PERIODS,
        n_channels=N_CHANNELS,
        channels=np.arange(2),
        bins=np.arange(20, 60),
    )
    return LiveScanner(template, acquisition)


@pytest.fixture
def open_recorder(scanner, tmp_path):
    """Open a recorder in `tmp_path / "recordings"`; what is left open is closed."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    opened = []

    def open_one(**changes) -> Recorder:
        settings = {"folder": folder, "template": scanner.template, "min_free_mb": 0.0}
        recorder = Recorder(RecordingConfig(**(settings | changes)), scanner.acquisition)
        opened.append(recorder)
        return recorder

    yield open_one
    for recorder in opened:
        recorder.close()
