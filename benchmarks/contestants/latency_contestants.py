"""What the latency benchmark puts side by side: ways to reconstruct, each a call on some frames."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.contestants.eager_equilibrium import EagerEquilibrium
from benchmarks.harness.record import ROOT
from engine.machine.arithmetic import single_blas_thread
from engine.measurement.normalization import normalize
from engine.networks.bundle import load_bundle, shipped_bundle_path
from engine.operators.operators import Operators
from engine.reconstruction.method_settings import MethodSettings
from engine.reconstruction.methods import METHODS, open_method
from engine.reconstruction.reconstructor import Reconstructor
from trainer.loop.checkpoint import load_networks

BATCH = 64

TOLERANCE = 6e-3
"""Relative residual at which a frame stops early: on frames of 15, 25 and 35 dB the largest of a few round
values that costs less than 0.1 dB against 25 evaluations."""

REFERENCE_RUN = ROOT / "models" / "reference"
"""Run whose networks ship."""

Images = NDArray[np.float32]
Call = Callable[[NDArray[np.floating]], tuple[Images, float]]
"""Takes whitened rows (F, R); returns images (F, N) and the mean number of iterations."""


@dataclass(frozen=True)
class Timed:
    """One way to reconstruct.

    Attributes
    ----------
    name : str
        Of the row.
    backend : str
        What computes.
    threads : int
        Cores it may use.
    batch : int
        Frames of a call.
    call : callable
        Reconstructs that many whitened frames.
    """

    name: str
    backend: str
    threads: int
    batch: int
    call: Call


def equilibria(operators: Operators) -> Iterator[Timed]:
    """Return the engine's solves of the shipped networks."""
    for threads in (1, 2):
        cores = f"{threads} core" + "s" * (threads > 1)

        def timed(name: str, batch: int = 1, threads: int = threads, **settings: object) -> Timed:
            solver = _engine(operators, MethodSettings(threads=threads, **settings))  # type: ignore[arg-type]
            return Timed(name, "onnxruntime-cpu", threads, batch, solver)

        yield timed(f"deq, 25 evaluations, {cores}", tolerance=0.0, max_iterations=25)
        yield timed(f"deq, to tolerance, {cores}", tolerance=TOLERANCE, max_iterations=25)
        yield timed(f"fast, {cores}", model="fast", tolerance=0.0)
        batch = timed(f"deq, batch of {BATCH}, {cores}", BATCH, tolerance=0.0, max_iterations=25)
        yield batch
        single = timed("", tolerance=0.0, max_iterations=25).call
        yield replace(batch, name=f"deq, {BATCH} single frames, {cores}", call=partial(_one_by_one, single))


def baselines(operators: Operators) -> Iterator[Timed]:
    """Return the methods that ship besides, as a user gets them."""
    for name, method in METHODS.items():
        if name == "deq" or not method.works_as_installed:
            continue
        solver = _engine(operators, MethodSettings(), name)
        backend = "onnxruntime-cpu" if method.networks else "numpy"
        yield Timed(name, backend, 1, 1, solver)


def eager_solves(operators: Operators) -> Iterator[Timed]:
    """Return the careful eager PyTorch with each number of threads and memory format."""
    bundle = load_bundle(shipped_bundle_path("reference"))
    config = replace(bundle.require_solver(), tolerance=0.0, max_iterations=25)
    for threads in (1, 2):
        for label, memory_format in (
            ("NCHW", torch.contiguous_format),
            ("NHWC", torch.channels_last),
        ):
            rdn, lc, _ = load_networks(REFERENCE_RUN)
            assert lc is not None  # the method has one
            solver = EagerEquilibrium(
                rdn.eval(), lc.eval(), operators, config, bundle.manifest.dual_start, memory_format
            )
            call = partial(_eager, solver, operators, threads)
            name = f"eager PyTorch, {label}, {threads} thread" + "s" * (threads > 1)
            yield Timed(name, "torch-eager", threads, 1, call)


def _engine(operators: Operators, settings: MethodSettings, method: str = "deq") -> Call:
    # Without intervals, which are no part of the solve.
    reconstructor = Reconstructor(open_method(method, operators, settings))

    def call(rows: NDArray[np.floating]) -> tuple[Images, float]:
        if len(rows) == 1:
            found = [reconstructor.reconstruct(rows[0])]
        else:
            found = reconstructor.reconstruct_frames(rows)
        images = np.stack([frame.image.reshape(-1) for frame in found])
        return images, float(np.mean([frame.report.iterations for frame in found]))

    return call


def _one_by_one(single: Call, rows: NDArray[np.floating]) -> tuple[Images, float]:
    found = [single(frame[None]) for frame in rows]
    return np.concatenate([images for images, _ in found]), float(np.mean([number for _, number in found]))


def _eager(
    solver: EagerEquilibrium, operators: Operators, threads: int, rows: NDArray[np.floating]
) -> tuple[Images, float]:
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # as the engine does
    images = []
    try:
        for frame in rows:
            with single_blas_thread():
                measurement = normalize(frame, operators)
            assert measurement is not None  # no phantom is empty
            images.append(np.float32(measurement.intensity) * solver.solve(measurement))
    finally:
        torch.set_flush_denormal(False)
    return np.stack(images), 25.0


def best_eager(candidates: Sequence[Timed], frames: NDArray[np.floating]) -> Timed:
    """Return the eager solve with the smallest median time over whitened frames (F, R)."""
    medians = []
    for one in candidates:
        elapsed = []
        for frame in frames:
            started = time.perf_counter()
            one.call(frame[None])
            elapsed.append(time.perf_counter() - started)
        medians.append(np.median(elapsed))
    return candidates[int(np.argmin(medians))]
