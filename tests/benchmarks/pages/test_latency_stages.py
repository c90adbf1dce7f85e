"""Where a frame's time goes: each part is booked to its own stage, and every part is the engine's."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.pages import latency_stages
from benchmarks.pages.latency_stages import STAGES, stage_times
from benchmarks.scans.scans import frames_of_test_split, reference_scan
from engine.fixed_point.solve import FixedPointConfig
from engine.machine.arithmetic import IS_X86
from engine.networks.bundle import Bundle, load_bundle, shipped_bundle_path
from engine.networks.sessions import OnnxConsistency, OnnxPrior
from engine.operators.operators import Operators
from engine.operators.products import DenseProducts

EVALUATIONS = 4
FRAMES = 3

MICROSECOND = 1e-3
"""Milliseconds; what the stand-in clock loses by rounding is far less."""


@pytest.fixture
def operators(small_world: None) -> Operators:
    return reference_scan(0.5).operators


@pytest.fixture
def rows(operators: Operators) -> NDArray[np.float64]:
    return frames_of_test_split(0.5, FRAMES, 25.0).rows * operators.scale


@pytest.fixture
def bundle() -> Bundle:
    return load_bundle(shipped_bundle_path("reference"))


@pytest.fixture
def config(bundle: Bundle) -> FixedPointConfig:
    return replace(bundle.require_solver(), tolerance=0.0, max_iterations=EVALUATIONS)


def test_every_stage_takes_some_time(
    bundle: Bundle, operators: Operators, rows: NDArray[np.float64], config: FixedPointConfig
) -> None:
    found = stage_times(bundle, operators, rows, config)
    assert tuple(found) == STAGES
    assert all(0 < milliseconds < np.inf for milliseconds in found.values())


@pytest.mark.skipif(not IS_X86, reason="only x86 has the switch")
def test_denormals_count_as_zero_as_in_a_reconstruction(
    bundle: Bundle,
    operators: Operators,
    rows: NDArray[np.float64],
    config: FixedPointConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    smallest = np.full(8, np.finfo(np.float32).tiny)
    halves: list[np.float32] = []

    class Looking(latency_stages.AdmmStep):
        def __call__(self, z: Any, out: Any) -> None:
            halves.append((smallest * np.float32(0.5)).max())
            super().__call__(z, out)

    monkeypatch.setattr(latency_stages, "AdmmStep", Looking)
    stage_times(bundle, operators, rows, config)
    assert halves == [0.0] * (FRAMES * EVALUATIONS)
    assert (smallest * np.float32(0.5)).max() > 0  # as before


def test_each_part_is_booked_to_its_stage(
    bundle: Bundle,
    operators: Operators,
    rows: NDArray[np.float64],
    config: FixedPointConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a clock that moves only inside the parts, by another time in each of them."""
    clock = SimpleNamespace(now=0.0)
    calls: list[str] = []

    def take(what: str, milliseconds: float) -> None:
        calls.append(what)
        clock.now += milliseconds / 1e3

    def slow(kind: type[Any], what: str, milliseconds: float) -> Callable[[Bundle], Any]:
        class Slow(kind):  # type: ignore[misc]
            def bind(self, *arrays: Any) -> Callable[[], NDArray[Any]]:
                run: Callable[[], NDArray[Any]] = super().bind(*arrays)

                def bound() -> NDArray[Any]:
                    take(what, milliseconds)
                    return run()

                return bound

        return Slow

    class SlowProducts(DenseProducts):
        def rows_of(self, images: Any, out: Any, first: int, last: int) -> None:
            take("rows_of", (last - first) / operators.n_rows)
            super().rows_of(images, out, first, last)

        def images_of_rows(self, *arguments: Any) -> None:
            take("images_of_rows", 2.0)
            super().images_of_rows(*arguments)

        def add_images_of_images(self, *arguments: Any) -> None:
            take("add_images_of_images", 4.0)
            super().add_images_of_images(*arguments)

    class SlowStep(latency_stages.AdmmStep):
        def __call__(self, z: Any, out: Any) -> None:
            take("step", 64.0)
            super().__call__(z, out)

    class SlowSolver(latency_stages.FixedPointSolver):
        def solve(self, step: Any, starts: Any) -> Any:
            take("solve", 256.0)
            return super().solve(step, starts)

    def slow_normalize(*arguments: Any) -> Any:
        take("normalize", 128.0)
        return normalize(*arguments)

    normalize = latency_stages.normalize
    monkeypatch.setattr(latency_stages, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(latency_stages, "OnnxPrior", slow(OnnxPrior, "rdn", 8.0))
    monkeypatch.setattr(latency_stages, "OnnxConsistency", slow(OnnxConsistency, "lc", 16.0))
    monkeypatch.setattr(latency_stages, "products_of", SlowProducts)
    monkeypatch.setattr(latency_stages, "AdmmStep", SlowStep)
    monkeypatch.setattr(latency_stages, "FixedPointSolver", SlowSolver)
    monkeypatch.setattr(latency_stages, "normalize", slow_normalize)
    found = stage_times(bundle, operators, rows, config)
    assert found == pytest.approx(
        {
            "start": 128 + 1,  # the first state needs its A x
            "rdn": 8 * EVALUATIONS,
            "lc": 16 * EVALUATIONS,
            "products": (1 + 2 + 4) * EVALUATIONS,
            "step_rest": 64 * EVALUATIONS,
            "anderson": 256,
        },
        abs=MICROSECOND,
    )
    assert sum(found.values()) == pytest.approx(1e3 * clock.now / FRAMES, abs=MICROSECOND)
    for part in ("rdn", "lc", "step", "images_of_rows", "add_images_of_images"):
        assert calls.count(part) == FRAMES * EVALUATIONS
