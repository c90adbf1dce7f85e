"""What does not fit is refused in one line before the work; where the system is silent nothing is refused."""

import numpy as np
import pytest

from engine.calibration.calibrate import make_operators
from engine.errors import ConfigError
from engine.machine import memory as available_memory
from engine.machine.memory import available_bytes, require_memory
from engine.measurement.normalization import normalize
from engine.solvers.deq.equilibrium import Equilibrium


@pytest.fixture
def megabytes_left(tmp_path, monkeypatch):
    def leave(megabytes: float) -> None:
        text = f"MemTotal:       99999999 kB\nMemAvailable:   {int(1024 * megabytes)} kB\n"
        (tmp_path / "meminfo").write_text(text)
        monkeypatch.setattr(available_memory, "MEMINFO", tmp_path / "meminfo")

    return leave


def test_what_fits_is_let_through_and_what_does_not_is_refused(megabytes_left) -> None:
    megabytes_left(3)
    require_memory(3 * 2**20, "it", "wait")
    with pytest.raises(ConfigError, match="4 MB; 3 MB"):
        require_memory(4 * 2**20, "it", "wait")


def test_a_system_that_does_not_say_refuses_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(available_memory, "MEMINFO", tmp_path / "missing")
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
