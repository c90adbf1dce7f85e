"""The eager equilibrium against the engine's own solve: the time of another algorithm proves nothing."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.contestants.eager_equilibrium import EagerEquilibrium
from benchmarks.contestants.latency_contestants import REFERENCE_RUN
from benchmarks.scans.scans import frames_of_test_split, reference_scan
from engine.fixed_point.solve import FixedPointConfig
from engine.measurement.normalization import NormalizedMeasurement, normalize
from engine.networks.bundle import Bundle, load_bundle, shipped_bundle_path
from engine.operators.operators import Operators
from engine.reconstruction.method_settings import MethodSettings
from engine.reconstruction.methods import open_method
from trainer.loop.checkpoint import load_networks

SINGLE = 1e-5
"""Relative error of an image: some 1e-7 of single precision per evaluation, which acceleration magnifies.
One evaluation more or less changes the image by 1e-2."""

EVALUATIONS = 7
"""More than the history of five holds, so that its oldest pair has been overwritten."""


@pytest.fixture(autouse=True)
def _single_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def bundle() -> Bundle:
    return load_bundle(shipped_bundle_path("reference"))


@pytest.fixture
def operators(small_world: None) -> Operators:
    return reference_scan(0.5).operators


@pytest.fixture
def measurements(operators: Operators) -> list[NormalizedMeasurement]:
    rows = [frames_of_test_split(0.5, 2, snr).rows for snr in (15.0, 35.0)]
    found = [normalize(frame * operators.scale, operators) for frame in np.concatenate(rows)]
    return [measurement for measurement in found if measurement is not None]


def eager_and_calls(
    operators: Operators,
    bundle: Bundle,
    config: FixedPointConfig,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> tuple[EagerEquilibrium, list[int]]:
    """Return the solver and a list that grows with every call of its image network."""
    rdn, lc, _ = load_networks(REFERENCE_RUN)
    assert lc is not None
    calls: list[int] = []
    rdn.register_forward_hook(lambda *_: calls.append(1))
    dual_start = bundle.manifest.dual_start
    return EagerEquilibrium(rdn.eval(), lc.eval(), operators, config, dual_start, memory_format), calls


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("evaluations", [1, EVALUATIONS])
def test_the_image_is_that_of_the_engine(
    memory_format: torch.memory_format,
    evaluations: int,
    operators: Operators,
    bundle: Bundle,
    measurements: list[NormalizedMeasurement],
) -> None:
    config = replace(bundle.require_solver(), tolerance=0.0, max_iterations=evaluations)
    eager, calls = eager_and_calls(operators, bundle, config, memory_format)
    engine = open_method("deq", operators, MethodSettings(tolerance=0.0, max_iterations=evaluations))
    assert len(measurements) == 4
    for measurement, expected in zip(measurements, engine.solve(measurements), strict=True):
        assert expected.stats.restarts == 0  # the eager solve has no safeguard
        image = eager.solve(measurement)
        assert image.shape == (operators.n_voxels,)
        assert (image >= 0).all()
        assert np.linalg.norm(image - expected.value) <= SINGLE * np.linalg.norm(expected.value)
    assert len(calls) == len(measurements) * evaluations


def test_it_stops_where_the_engine_stops(
    operators: Operators, bundle: Bundle, measurements: list[NormalizedMeasurement]
) -> None:
    tolerance, limit = 0.03, 20
    config = replace(bundle.require_solver(), tolerance=tolerance, max_iterations=limit)
    eager, calls = eager_and_calls(operators, bundle, config)
    engine = open_method("deq", operators, MethodSettings(tolerance=tolerance, max_iterations=limit))
    for measurement, expected in zip(measurements, engine.solve(measurements), strict=True):
        calls.clear()
        image = eager.solve(measurement)
        assert len(calls) == expected.stats.iterations < limit
        assert np.linalg.norm(image - expected.value) <= SINGLE * np.linalg.norm(expected.value)


class WorseFrom(torch.nn.Module):
    """A network whose answers are far off from some call on: every residual is larger from there."""

    def __init__(self, network: torch.nn.Module, first: int) -> None:
        super().__init__()
        self._network = network
        self._first = first
        self._calls = 0

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self._network(*inputs)
        self._calls += 1
        return found + 100.0 * self._calls if self._calls >= self._first else found


def test_the_image_is_that_of_the_smallest_residual(
    operators: Operators, bundle: Bundle, measurements: list[NormalizedMeasurement]
) -> None:
    config = replace(bundle.require_solver(), tolerance=0.0)
    good, _ = eager_and_calls(operators, bundle, replace(config, max_iterations=4))
    expected = good.solve(measurements[0])
    rdn, lc, _ = load_networks(REFERENCE_RUN)
    assert lc is not None
    spoilt = EagerEquilibrium(
        WorseFrom(rdn.eval(), first=5),
        lc.eval(),
        operators,
        replace(config, max_iterations=7),
        bundle.manifest.dual_start,
    )
    np.testing.assert_array_equal(spoilt.solve(measurements[0]), expected)
