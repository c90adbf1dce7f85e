"""A small scanner's operators, and a method whose speed and failures the test decides."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from engine.calibration import CalibrationConfig, calibrate
from engine.live.raw_frame import RawFrame
from engine.reconstructor import Reconstructor
from engine.solvers.least_squares import LeastSquares
from tests.engine.live.fake_service import FakeService

CONFIG = CalibrationConfig(harmonics=(2, 3), harmonic_half_width=200.0)

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


@pytest.fixture(scope="session")
def operators(scan):
    """30 bins of two channels and three periods, on a 5 x 4 grid."""
    return calibrate(scan.calibration(), CONFIG)


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
    """Make raw frames: raw(sequence, concentrations (20,) or None for an empty frame, **RawFrame fields)."""

    def make(sequence, concentrations=None, seed=None, **fields):
        rng = np.random.default_rng([sequence, 3] if seed is None else seed)
        voxels = np.zeros(20) if concentrations is None else concentrations
        data = fields.pop("data", None)
        if data is None:
            data = scan.frames(voxels[None], rng)[0]
        return RawFrame(sequence, data, is_background=concentrations is None, **fields)

    return make


@pytest.fixture(scope="session")
def image():
    """A voxel vector (20,)."""
    return np.random.default_rng(4).uniform(0.5, 2, 20)


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
