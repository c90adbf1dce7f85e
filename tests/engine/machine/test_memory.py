"""What does not fit is refused in one line before the work; where the system is silent nothing is refused."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from engine.calibration.calibrate import make_operators
from engine.errors import ConfigError
from engine.machine.memory import available_bytes, require_memory
from engine.measurement.normalization import normalize
from engine.solvers.deq.equilibrium import Equilibrium

MEMINFO = Path("/proc/meminfo")

OTHER_PROGRAMS = 0.5
"""Share that other programs may take or free between two looks; bytes for kB would be far off."""


@pytest.fixture
def megabytes_left(monkeypatch):
    def leave(megabytes: float) -> None:
        found = SimpleNamespace(available=int(2**20 * megabytes))
        monkeypatch.setattr(psutil, "virtual_memory", lambda: found)

    return leave


@pytest.mark.skipif(not MEMINFO.exists(), reason="Linux tells the memory in /proc")
def test_what_is_available_is_what_the_system_says() -> None:
    (stated,) = (line.split()[1] for line in MEMINFO.read_text().splitlines() if "MemAvailable" in line)
    assert available_bytes() == pytest.approx(1024 * int(stated), rel=OTHER_PROGRAMS)


def test_what_fits_is_let_through_and_what_does_not_is_refused(megabytes_left) -> None:
    megabytes_left(3)
    require_memory(3 * 2**20, "it", "wait")
    with pytest.raises(ConfigError, match="4 MB; 3 MB"):
        require_memory(4 * 2**20, "it", "wait")


def test_a_system_that_does_not_say_refuses_nothing(monkeypatch) -> None:
    def hidden() -> None:
        raise FileNotFoundError("/proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", hidden)
    assert available_bytes() is None
    require_memory(2**60, "it", "wait")


def test_a_batch_too_large_is_refused_before_the_first_evaluation(
    megabytes_left, small_system_matrix
) -> None:
    def never(*_arrays):
        raise AssertionError("a network was called")

    operators = make_operators(small_system_matrix)
    solver = Equilibrium(operators, never, never)
    rows = np.random.default_rng(0).standard_normal(operators.n_rows)
    measurement = normalize(rows, operators)
    megabytes_left(0.1)
    with pytest.raises(ConfigError, match=r"50 frames .*fewer"):
        solver.solve([measurement] * 50)
