"""Milliseconds of networks in the engine's runtime, one thread, all of them in turn.

Whatever else the machine does hits all networks alike, and medians leave out what hits one of them.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from engine.machine.arithmetic import single_blas_thread
from engine.measurement.normalization import NormalizedMeasurement
from engine.networks.bundle import Bundle
from engine.networks.sessions import OnnxConsistency, OnnxPrior, OnnxSession
from engine.operators.operators import Operators
from engine.solvers.deq.equilibrium import Equilibrium
from export.graphs.onnx_graphs import LC_INTERFACE, export_lc, export_rdn, rdn_interface
from trainer.networks.consistency import LearnedConsistency
from trainer.networks.rdn import ResidualDenseNetwork

CALLS = 10
"""Calls of a network alone that one figure is the mean of: in a solve, too, its weights are in the cache."""

NOISE = 0.05
"""Standard deviation per row that networks alone are told; their time does not depend on it."""

Row = dict[str, Any]
Times = tuple[float, float, float, float]
"""Milliseconds of a solve; of Psi_RDN, of Psi_LC and of the rest per evaluation."""


class Stopwatch:
    """A network that adds up the time its calls take.

    Parameters
    ----------
    network : callable
        Arrays in, an array out.
    """

    def __init__(self, network: Callable[..., NDArray[Any]]) -> None:
        self._network = network
        self.milliseconds = 0.0

    def __call__(self, *arrays: NDArray[Any]) -> NDArray[Any]:
        """Call the network."""
        started = time.perf_counter()
        output = self._network(*arrays)
        self.milliseconds += 1e3 * (time.perf_counter() - started)
        return output


@dataclass(frozen=True)
class NetworkSize:
    """A network without training: its role, "rdn" or "lc", and its size; LC has no blocks and layers."""

    role: str
    features: int
    blocks: int | None = None
    layers: int | None = None

    def build(self) -> nn.Module:
        """Make the network, which sees the noise level, with random weights."""
        if self.blocks is None or self.layers is None:
            return LearnedConsistency(self.features, takes_noise=True)
        return ResidualDenseNetwork(self.features, self.features, self.blocks, self.layers, takes_noise=True)


def time_solves(
    bundles: Mapping[str, Bundle],
    operators: Operators,
    measurements: Sequence[NormalizedMeasurement],
    evaluations: Sequence[int],
) -> list[Row]:
    """Time `Equilibrium.solve`, every bundle with every number of evaluations on every measurement.

    Parameters
    ----------
    bundles : mapping of str to Bundle
        Of the method deq, by name.
    operators : Operators
    measurements : sequence of NormalizedMeasurement
    evaluations : sequence of int
        Exact numbers of evaluations of the map.

    Returns
    -------
    list of dict
        One per bundle (`method`) and number (`evaluations`), with medians over the measurements in
        milliseconds: `ms` of a solve, and of one evaluation `rdn_ms`, `lc_ms` and `rest_ms`.
    """
    trials: list[tuple[str, int, Equilibrium, Stopwatch, Stopwatch, list[Times]]] = []
    for name, bundle in bundles.items():
        prior, consistency = Stopwatch(OnnxPrior(bundle)), Stopwatch(OnnxConsistency(bundle))
        for number in evaluations:
            config = replace(bundle.require_solver(), max_iterations=number, tolerance=0.0)
            start = bundle.manifest.dual_start
            solver = Equilibrium(operators, prior, consistency, config, start)
            trials.append((name, number, solver, prior, consistency, []))
    with single_blas_thread():
        for _, _, solver, *_ in trials:
            solver.solve(measurements[:1])  # to warm up
        for measurement in measurements:
            for _, number, solver, prior, consistency, times in trials:
                times.append(_timed(solver, prior, consistency, measurement, number))
    rows = []
    for name, number, *_, times in trials:
        medians = dict(zip(("ms", "rdn_ms", "lc_ms", "rest_ms"), np.median(times, axis=0), strict=True))
        figures = {column: float(value) for column, value in medians.items()}
        rows.append({"method": name, "evaluations": number} | figures)
    return rows


def _timed(
    solver: Equilibrium,
    prior: Stopwatch,
    consistency: Stopwatch,
    measurement: NormalizedMeasurement,
    evaluations: int,
) -> Times:
    prior.milliseconds = consistency.milliseconds = 0.0
    started = time.perf_counter()
    solver.solve([measurement])
    total = 1e3 * (time.perf_counter() - started)
    rdn, lc = prior.milliseconds, consistency.milliseconds
    return total, rdn / evaluations, lc / evaluations, (total - rdn - lc) / evaluations


def time_sizes(sizes: Sequence[NetworkSize], operators: Operators, repetitions: int) -> list[Row]:
    """Time networks of random weights alone, on one image or measurement of a system matrix.

    Parameters
    ----------
    sizes : sequence of NetworkSize
    operators : Operators
    repetitions : int
        Times that all take their turn.

    Returns
    -------
    list of dict
        One per size: `network`, `features`, `blocks`, `layers`, `parameters`, and `ms`, the median of a call.
    """
    calls, parameters = [], []
    torch.manual_seed(0)
    for size in sizes:
        network = size.build()
        parameters.append(sum(weights.numel() for weights in network.parameters()))
        calls.append(_call(size.role, network, operators))
    times = np.array([[_mean_of_calls(call) for call in calls] for _ in range(repetitions + 1)])[1:]
    return [
        {
            "network": size.role,
            "features": size.features,
            "blocks": size.blocks,
            "layers": size.layers,
            "parameters": count,
            "ms": float(median),
        }
        for size, count, median in zip(sizes, parameters, np.median(times, axis=0), strict=True)
    ]


def _call(role: str, network: nn.Module, operators: Operators) -> Callable[[], object]:
    """Return what runs the network once in the engine's runtime."""
    interface = rdn_interface(network) if role == "rdn" else LC_INTERFACE
    with TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        (export_rdn if role == "rdn" else export_lc)(network, file)
        session = OnnxSession(file.read_bytes(), interface.inputs, {"z": interface.output})
    inputs = dict(_rdn_inputs(operators) if role == "rdn" else _lc_inputs(operators))
    return lambda: session(**inputs)


def _rdn_inputs(operators: Operators) -> Iterator[tuple[str, NDArray[np.float32]]]:
    nx, ny, _ = operators.grid.size
    yield "v", np.random.default_rng(0).random((1, 1, ny, nx), np.float32)
    yield "noise", np.full((1, 1, 1, 1), NOISE, np.float32)


def _lc_inputs(operators: Operators) -> Iterator[tuple[str, NDArray[np.float32]]]:
    rng, mask = np.random.default_rng(0), operators.layout.mask[None, None]
    for name in ("v", "y"):
        yield name, rng.standard_normal((1, 2, *operators.layout.shape), np.float32) * mask
    yield "mask", mask
    yield "epsilon", np.full((1, 1, 1, 1), NOISE * np.sqrt(operators.n_rows), np.float32)


def _mean_of_calls(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    for _ in range(CALLS):
        call()
    return 1e3 * (time.perf_counter() - started) / CALLS
