"""A tiny scanner whose frames say their own number, so that every loss and every mix-up shows."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from engine.intervals import Interval
from engine.live.live_image import BackgroundState, LiveImage, LiveReport
from engine.live.raw_frame import RawFrame
from engine.live.recording import Recorder
from engine.live.recording_config import RecordingConfig
from engine.mpi.grid import Grid
from engine.mpi.mdf import write_mdf
from engine.operators import Acquisition
from engine.report import FrameReport
from engine.solution import Result

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
        """Frame of a stream; every seventh is empty."""
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
        live = LiveReport(number, number, 1, "run", None, 1, 2, 0.1, 2.6, (), (), report)
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
