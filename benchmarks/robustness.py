"""What quality is left when the scanner, the tracer, the noise or the phantom is not that of the training.

Every method is set beside its own unperturbed figure on the same phantoms, so that a loss is one of pairs.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contestants.contestant import Contestant, as_shipped, fast, trained_at
from benchmarks.contestants.model_shelf import MissingModelError, ModelShelf
from benchmarks.harness.benchmark_run import BenchmarkRun
from benchmarks.harness.quality import effort, image_quality, reconstruct
from benchmarks.pages.robustness_pages import (
    CONCENTRATION,
    EMPTY,
    PHANTOMS,
    PICTURE_SNR,
    TRAINING,
    TRAINING_METHOD,
    blocks,
)
from benchmarks.pages.robustness_pictures import IMAGE, gallery, losses
from benchmarks.scans.perturbations import GAINS, GROUPS, UNPERTURBED, Perturbation, Trial
from benchmarks.scans.scans import (
    SNRS,
    TRAIN_GRADIENT,
    TRAIN_SNRS,
    frames_of_image,
    frames_of_test_split,
    reference_scan,
)
from benchmarks.scans.unlike_phantoms import UNLIKE_PHANTOMS
from engine.mpi.metrics import psnr_db
from engine.tuning.emulation import Frames

FRAMES, QUICK_FRAMES = 16, 4
REPETITIONS, QUICK_REPETITIONS = 4, 2
"""Measurements of each unlike phantom, each with noise of its own."""

EXACT_FRAMES = 4
"""Frames whose images at another concentration and the same SNR are compared."""

LARGEST_MISMATCH = 20.0
"""dB between the SNRs of training and test."""

EACH = "psnr"
"""Column of the kept rows with the pSNR of every frame; it is not published."""

Row = Mapping[str, Any]


def run(quick: bool, output: Path) -> None:
    """Measure everything; write robustness.json, .md, .png and robustness-phantoms.png."""
    count, repetitions = (QUICK_FRAMES, QUICK_REPETITIONS) if quick else (FRAMES, REPETITIONS)
    config = {
        "quick": quick,
        "frames": count,
        "repetitions": repetitions,
        "exact_frames": EXACT_FRAMES,
        "train_gradient": TRAIN_GRADIENT,
        "seed": 0,
        "split": "test",
    }
    with BenchmarkRun("robustness", output, config) as benchmark:
        methods = contestants()
        n_changes = sum(len(group.perturbations) for group in GROUPS)
        per_method = 1 + n_changes + len(GAINS) + len(UNLIKE_PHANTOMS) + 1
        pairs = [(a, b) for a in TRAIN_SNRS for b in SNRS if abs(a - b) <= LARGEST_MISMATCH]
        benchmark.expect(len(SNRS) * len(methods) * per_method + len(pairs))
        plain = {
            (method.name, snr): _perturbed(benchmark, method, snr, "none", UNPERTURBED, count)
            for snr in SNRS
            for method in methods
        }
        for group in GROUPS:
            for perturbation in group.perturbations:
                for snr in SNRS:
                    for method in methods:
                        own = plain[method.name, snr]
                        _perturbed(benchmark, method, snr, group.name, perturbation, count, own)
        for snr in SNRS:
            for method in methods:
                for gain in GAINS:
                    _exact(benchmark, method, snr, gain)
        _trained_elsewhere(benchmark, count)
        for snr in SNRS:
            for method in methods:
                for phantom in UNLIKE_PHANTOMS:
                    _phantom(benchmark, method, snr, phantom, repetitions)
                _empty(benchmark, method, snr, repetitions, count)
        names = [method.name for method in methods]
        pictures = {
            "robustness.png": losses(benchmark.rows),
            "robustness-phantoms.png": gallery(benchmark.rows, names),
        }
        text = blocks(benchmark.rows, names, count, repetitions)
        benchmark.publish("Robustness to what the training did not see", text, pictures, hidden=[IMAGE, EACH])


def contestants() -> list[Contestant]:
    """Return the best hand-crafted method, PP-MPI and both models of DEQ-MPI, as shipped."""
    return [as_shipped("admm-hybrid"), as_shipped("pp-mpi"), as_shipped("deq"), fast()]


@lru_cache(maxsize=1)
def _trial(perturbation: Perturbation, count: int, snr: float) -> Trial:
    """Make a trial once for all methods."""
    return perturbation.make(count, snr)


def _perturbed(
    benchmark: BenchmarkRun,
    method: Contestant,
    snr: float,
    group: str,
    perturbation: Perturbation,
    count: int,
    unperturbed: Row | None = None,
) -> Row:
    def measure() -> dict[str, Any]:
        trial = _trial(perturbation, count, snr)
        images, done = reconstruct(method.open(trial.operators), trial.frames.rows, trial.sigma)
        return _figures(images, trial.frames, unperturbed) | effort(done)

    key = {"method": method.name, "snr_db": snr, "group": group, "perturbation": perturbation.name}
    return benchmark.row(key, measure, method.identity)


def _figures(images: NDArray[np.float32], frames: Frames, unperturbed: Row | None) -> dict[str, Any]:
    """Return the quality and, beside the same method unperturbed, the mean loss and its standard error."""
    each = psnr_db(images, frames.truth)
    figures = image_quality(images, frames.truth) | {EACH: each.tolist()}
    if unperturbed is None:
        return figures
    loss = np.asarray(unperturbed[EACH]) - each
    error = float(loss.std(ddof=1) / np.sqrt(len(loss))) if len(loss) > 1 else None
    return figures | {"loss_db": float(loss.mean()), "loss_error_db": error}


def _exact(benchmark: BenchmarkRun, method: Contestant, snr: float, gain: float) -> None:
    """Measure how far the images of scaled data are from scaled images."""

    def measure() -> dict[str, Any]:
        frames = frames_of_test_split(TRAIN_GRADIENT, EXACT_FRAMES, snr)
        solver = method.open(reference_scan(TRAIN_GRADIENT).operators)
        expected = gain * reconstruct(solver, frames.rows)[0].astype(np.float64)
        images, _ = reconstruct(solver, gain * frames.rows)
        difference = np.abs(images - expected).max(axis=(1, 2)) / expected.max(axis=(1, 2))
        return {"largest_difference": float(difference.max()), "n": EXACT_FRAMES}

    key = {
        "method": method.name,
        "snr_db": snr,
        "group": CONCENTRATION,
        "perturbation": f"tracer and noise x{gain:g}",
    }
    benchmark.row(key, measure, method.identity)


def _trained_elsewhere(benchmark: BenchmarkRun, count: int) -> None:
    """Measure the models trained at one SNR on data of others, the matching one first."""
    shelf = ModelShelf()
    for snr in SNRS:
        matched = None
        for train in sorted(TRAIN_SNRS, key=lambda train: (abs(train - snr), train)):
            if abs(train - snr) > LARGEST_MISMATCH:
                continue
            try:
                model = trained_at("deq", train, shelf, TRAINING_METHOD)
            except MissingModelError as error:
                benchmark.leave_out(str(error))
                continue
            row = _trained(benchmark, model, train, snr, count, matched)
            matched = row if train == snr else matched


def _trained(
    benchmark: BenchmarkRun, model: Contestant, train: float, snr: float, count: int, matched: Row | None
) -> Row:
    def measure() -> dict[str, Any]:
        frames = frames_of_test_split(TRAIN_GRADIENT, count, snr)
        images, done = reconstruct(model.open(reference_scan(TRAIN_GRADIENT).operators), frames.rows)
        return _figures(images, frames, matched) | effort(done)

    key = {
        "method": TRAINING_METHOD,
        "snr_db": snr,
        "group": TRAINING,
        "perturbation": f"trained {train - snr:+g} dB" if train != snr else "none",
        "train_snr_db": train,
    }
    return benchmark.row(key, measure, model.identity)


def _phantom(benchmark: BenchmarkRun, method: Contestant, snr: float, phantom: str, repetitions: int) -> None:
    def measure() -> dict[str, Any]:
        operators = reference_scan(TRAIN_GRADIENT).operators
        image = UNLIKE_PHANTOMS[phantom](operators.grid)
        frames = frames_of_image(TRAIN_GRADIENT, image, repetitions, snr)
        images, done = reconstruct(method.open(operators), frames.rows)
        return image_quality(images, frames.truth) | effort(done) | _shown(images, snr)

    key = {"method": method.name, "snr_db": snr, "group": PHANTOMS, "phantom": phantom}
    benchmark.row(key, measure, method.identity)


def _empty(benchmark: BenchmarkRun, method: Contestant, snr: float, repetitions: int, count: int) -> None:
    """Reconstruct noise alone, of the level that test frames of this SNR have."""

    def measure() -> dict[str, Any]:
        operators = reference_scan(TRAIN_GRADIENT).operators
        noise_std = frames_of_test_split(TRAIN_GRADIENT, count, snr).noise_std
        rng = np.random.default_rng([0, 39])
        rows = noise_std * rng.standard_normal((repetitions, operators.n_rows))
        images, done = reconstruct(method.open(operators), rows)
        found = {
            "rms": float(np.sqrt(np.mean(images.astype(np.float64) ** 2))),
            "peak_mean": float(images.max(axis=(1, 2)).mean()),
            "peak_max": float(images.max()),
            "n": repetitions,
        }
        return found | effort(done) | _shown(images, snr)

    key = {"method": method.name, "snr_db": snr, "group": PHANTOMS, "phantom": EMPTY}
    benchmark.row(key, measure, method.identity)


def _shown(images: NDArray[np.float32], snr: float) -> dict[str, Any]:
    return {IMAGE: images[0].tolist()} if snr == PICTURE_SNR else {}
