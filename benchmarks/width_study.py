"""Quality against measured milliseconds for networks of several sizes, and which of them is worth shipping.

Every network runs with several numbers of evaluations of its map; a smaller network that takes half the time
of an evaluation may take twice as many of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contestants.model_shelf import MissingModelError, ModelShelf
from benchmarks.contestants.network_timing import NetworkSize, time_sizes, time_solves
from benchmarks.contestants.run_contestants import from_run
from benchmarks.convergence import follow
from benchmarks.harness.benchmark_run import BenchmarkRun
from benchmarks.harness.record import ROOT
from benchmarks.pages.width_pages import blocks, picture
from benchmarks.scans.scans import SNRS, TRAIN_GRADIENT, frames_of_test_split, reference_scan
from engine.errors import BundleError, InputError
from engine.measurement.normalization import NormalizedMeasurement, normalize
from engine.mpi.metrics import psnr_db
from engine.networks.bundle import MODELS as SHIPPED
from engine.networks.bundle import Bundle, load_bundle
from engine.networks.sessions import OnnxConsistency, OnnxPrior
from engine.operators.operators import Operators
from engine.solvers.deq.admm_step import AdmmStep
from trainer.loop.checkpoint import CONFIG_FILE, load_networks

FRAMES, QUICK_FRAMES = 64, 4
TIMED_FRAMES, QUICK_TIMED_FRAMES = 24, 3
REPETITIONS, QUICK_REPETITIONS = 15, 3

EVALUATIONS, QUICK_EVALUATIONS = (6, 8, 10, 12, 15, 20, 25, 50), (6, 10, 25)

TIMED_SNR = 25.0
"""dB of the timed frames; the time does not depend on it, as the number of evaluations is given."""

MODELS = ROOT / "models"

WIDTHS, BLOCKS, LAYERS, LC_FEATURES = (8, 12, 16, 24), (2, 3, 4), (2, 3, 4), (4, 8, 16)
"""Sizes that are timed without training."""

TIMING = "timing"
"""Key of the kept rows with the timings, and their column; neither is published as it is."""


@dataclass(frozen=True)
class Network:
    """A trained network: its name, bundle, identity, and size as columns of the results."""

    name: str
    bundle: Bundle
    identity: Mapping[str, Any]
    size: Mapping[str, int]


def run(quick: bool, output: Path) -> None:
    """Measure every network that is there; write width_study.json, width_study.md and width_study.png."""
    count = QUICK_FRAMES if quick else FRAMES
    evaluations = QUICK_EVALUATIONS if quick else EVALUATIONS
    config = {"quick": quick, "frames": count, "seed": 0, "split": "test", "evaluations": list(evaluations)}
    with BenchmarkRun("width_study", output, config) as benchmark:
        networks = _networks(ModelShelf(), benchmark)
        benchmark.expect(2 + len(networks) * len(evaluations))
        times = _times(benchmark, networks, evaluations, quick)
        sizes = _sizes(benchmark, quick)
        benchmark.rows.clear()  # both are in the rows that follow
        for network in networks:
            _rows(benchmark, network, evaluations, count, times)
        shipped = _shipped(networks)
        text = blocks(benchmark.rows, sizes, shipped, count)
        pictures = {"width_study.png": picture(benchmark.rows, shipped)}
        benchmark.rows.extend(sizes)
        benchmark.publish("Quality against time by size of the networks", text, pictures)


def _networks(shelf: ModelShelf, benchmark: BenchmarkRun) -> list[Network]:
    """Return every trained network that is there."""
    more = (*MODELS.glob(f"fast/{CONFIG_FILE}"), *sorted(MODELS.glob(f"width/*/{CONFIG_FILE}")))
    found = []
    for folder in (MODELS / "reference", *(config.parent for config in more)):
        try:
            found.append(_network(folder, shelf))
        except MissingModelError as error:
            benchmark.leave_out(str(error))
    if not found:
        raise InputError(f"no finished run in {MODELS}; expected models/reference: train it")
    return found


def _network(folder: Path, shelf: ModelShelf) -> Network:
    contestant = from_run(folder.name, folder, "train it, or go without it", shelf)
    rdn, lc, config = load_networks(folder)
    if lc is None:
        raise MissingModelError(f"{folder} is a run of {config.method}; expected one of the method deq")
    size = {
        "parameters": sum(weights.numel() for net in (rdn, lc) for weights in net.parameters()),
        "features": config.model.rdn.features,
        "blocks": config.model.rdn.blocks,
        "layers": config.model.rdn.layers,
        "lc_features": config.model.lc.features,
    }
    return Network(folder.name, load_bundle(contestant.settings.model), contestant.identity, size)


def _times(
    benchmark: BenchmarkRun, networks: Sequence[Network], evaluations: Sequence[int], quick: bool
) -> dict[tuple[str, int], Mapping[str, float]]:
    """Time all networks in one run, or take the timings of one that was cut off after it."""

    def measure() -> dict[str, Any]:
        operators = reference_scan(TRAIN_GRADIENT).operators
        frames = frames_of_test_split(
            TRAIN_GRADIENT, QUICK_TIMED_FRAMES if quick else TIMED_FRAMES, TIMED_SNR
        )
        measurements = [_normalized(rows, operators) for rows in frames.rows]
        bundles = {network.name: network.bundle for network in networks}
        return {TIMING: time_solves(bundles, operators, measurements, evaluations)}

    identity = {network.name: dict(network.identity) for network in networks}
    timed = benchmark.row({"method": f"{TIMING} of the networks"}, measure, identity)[TIMING]
    return {
        (row["method"], row["evaluations"]): {key: row[key] for key in ("ms", "rdn_ms", "lc_ms", "rest_ms")}
        for row in timed
    }


def _sizes(benchmark: BenchmarkRun, quick: bool) -> list[dict[str, Any]]:
    """Time networks without training, all in one run."""
    step = 2 if quick else 1
    grid = product(WIDTHS[::step], BLOCKS[::step], LAYERS[::step])
    sizes = [NetworkSize("rdn", *size) for size in grid]
    sizes += [NetworkSize("lc", features) for features in LC_FEATURES]
    repetitions = QUICK_REPETITIONS if quick else REPETITIONS

    def measure() -> dict[str, Any]:
        return {TIMING: time_sizes(sizes, reference_scan(TRAIN_GRADIENT).operators, repetitions)}

    row = benchmark.row({"method": f"{TIMING} of sizes"}, measure)
    return [{"method": "untrained", **timed, "commit": row["commit"]} for timed in row[TIMING]]


def _rows(
    benchmark: BenchmarkRun,
    network: Network,
    evaluations: Sequence[int],
    count: int,
    times: Mapping[tuple[str, int], Mapping[str, float]],
) -> None:
    course = cache(partial(_course, network, evaluations, count))  # solved once, if any row is not there yet
    for index, number in enumerate(evaluations):

        def measure(index: int = index, number: int = number) -> dict[str, Any]:
            psnr = {snr: float(values[index]) for snr, values in course().items()}
            return {
                **times[network.name, number],
                **{f"psnr_{snr:g}": value for snr, value in psnr.items()},
                "psnr_mean": float(np.mean(list(psnr.values()))),
                "n": count,
            }

        key = {"method": network.name, **network.size, "evaluations": number}
        timed = {TIMING: dict(times[network.name, number])}  # figures of one row belong together
        benchmark.row(key, measure, {**network.identity, **timed})


def _course(network: Network, evaluations: Sequence[int], count: int) -> dict[float, NDArray[np.float64]]:
    """Return mean pSNR in dB by SNR, after each number of evaluations; every frame is solved once."""
    operators = reference_scan(TRAIN_GRADIENT).operators
    manifest = network.bundle.manifest
    config = replace(network.bundle.require_solver(), tolerance=0.0, max_iterations=max(evaluations))
    step = AdmmStep(operators, OnnxPrior(network.bundle), OnnxConsistency(network.bundle))
    shown = np.array(evaluations) - 1
    psnr = {}
    for snr in SNRS:
        frames, found = frames_of_test_split(TRAIN_GRADIENT, count, snr), []
        for rows, truth in zip(frames.rows, frames.truth, strict=True):
            measurement = _normalized(rows, operators)
            start = step.begin([measurement], manifest.dual_start)
            images, _ = follow(step, start, operators.n_voxels, config, step.measured)
            chosen = measurement.intensity * images[shown].reshape(-1, *truth.shape)
            found.append(psnr_db(chosen, np.broadcast_to(truth, chosen.shape)))
        psnr[snr] = np.mean(found, axis=0)
    return psnr


def _normalized(rows: NDArray[np.floating], operators: Operators) -> NormalizedMeasurement:
    measurement = normalize(rows * operators.scale, operators)
    assert measurement is not None  # no phantom is empty
    return measurement


def _shipped(networks: Sequence[Network]) -> dict[str, tuple[str, int]]:
    """Return for "reference" and "fast" the network that ships under the name, and its evaluations."""
    shipped = {}
    for name in ("reference", "fast"):
        try:
            bundle = load_bundle(SHIPPED / name)
        except BundleError:
            continue  # none ships under this name
        same = [
            network.name
            for network in networks
            if network.bundle.manifest.networks["rdn"].sha256 == bundle.manifest.networks["rdn"].sha256
        ]
        if same:
            shipped[name] = (same[0], bundle.require_solver().max_iterations)
    return shipped
