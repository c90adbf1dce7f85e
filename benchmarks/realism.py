"""How close the simulated problem is to the paper's: the authors' networks and hand-crafted priors as probes.

Needs the authors' published weights (a folder named by the environment variable DEQMPI_ICONLAB, or
`../shared/iconlab` beside the repository). The hand-crafted priors have the weights that ship,
cross-validated on this scanner as the paper's were on its own.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.contestants.contestant import Contestant, as_shipped, authors_deq, authors_pp_mpi
from benchmarks.contestants.model_shelf import ModelShelf, ShelfBundle, authors_folder
from benchmarks.contestants.paper import paper_figure
from benchmarks.harness.benchmark_run import BenchmarkRun
from benchmarks.harness.quality import effort, image_quality, reconstruct
from benchmarks.scans.scans import SNRS, TRAIN_GRADIENT, frames_of_test_split, reference_scan
from engine.mpi.simulation.phantoms import vessel_images
from engine.networks.bundle import load_bundle
from engine.networks.sessions import OnnxPrior
from engine.tuning.emulation import INTENSITY

FRAMES, QUICK_FRAMES = 64, 6

LEAST_SQUARES_SNR, LEAST_SQUARES_PSNR = 14.4, 12.3
"""The start images of the authors' code on their data, dB."""

DENOISER_NOISE, DENOISER_PSNR = 0.1, 29.5
"""Standard deviation of the noise, and the pSNR in dB of the authors' denoiser on their images."""

HAND_CRAFTED = ("admm-l1", "art", "admm-tv", "admm-hybrid")

WANTED = {"denoiser": 1.5} | dict.fromkeys(HAND_CRAFTED, 4.0)
"""Largest distance from the paper in dB at which the problem counts as the same."""

WANTED_OTHERS = 3.0
"""The same for all other probes."""

Row = Mapping[str, Any]


def run(quick: bool, output: Path) -> None:
    """Measure every probe and write realism.json, realism.md and realism.png."""
    authors_folder()  # nothing here makes sense without it
    count = QUICK_FRAMES if quick else FRAMES
    config = {"quick": quick, "preset": f"reference-{TRAIN_GRADIENT}", "seed": 0, "frames": count}
    shelf = ModelShelf()
    with BenchmarkRun("realism", output, config) as benchmark:
        field = [(LEAST_SQUARES_SNR, as_shipped("least-squares"))]
        for snr in SNRS:
            field += [(snr, as_shipped(method)) for method in HAND_CRAFTED]
            field += [(snr, authors_pp_mpi(shelf)), (snr, authors_deq(snr, shelf))]
        benchmark.expect(1 + len(field))
        denoiser = shelf.authors_denoiser()
        identity = {"source_sha256": denoiser.source_sha256}
        key = _key("denoiser", None)
        benchmark.row(
            key, _with_paper("denoiser", DENOISER_PSNR, lambda: _denoise(denoiser, count)), identity
        )
        for snr, contestant in field:
            _row(benchmark, contestant, snr, count)
        notes = (
            "`paper_psnr` is the figure on the authors' data, `wanted` the distance that still counts as the "
            "same problem. Data: A_meas x + n; reconstruction with A_meas U D; one noise level per SNR. "
            f"`denoiser`: the authors' network on test phantoms with noise of {DENOISER_NOISE:g}. The hand-"
            "crafted priors have the weights that ship."
        )
        blocks = [notes, "![Ours beside the authors' data](realism.png)"]
        pictures = {"realism.png": _picture(benchmark.rows)}
        benchmark.publish("Realism of the simulated scanner (pSNR in dB)", blocks, pictures)


def _row(benchmark: BenchmarkRun, contestant: Contestant, snr: float, count: int) -> None:
    def measure() -> dict[str, Any]:
        frames = frames_of_test_split(TRAIN_GRADIENT, count, snr)
        solver = contestant.open(reference_scan(TRAIN_GRADIENT).operators)
        images, done = reconstruct(solver, frames.rows)
        return image_quality(images, frames.truth) | effort(done)

    found = paper_figure(contestant.name, snr, TRAIN_GRADIENT)
    paper = LEAST_SQUARES_PSNR if found is None else found.psnr
    key = _key(contestant.name, snr)
    benchmark.row(key, _with_paper(contestant.name, paper, measure), contestant.identity)


def _key(method: str, snr: float | None) -> dict[str, Any]:
    gradients = {"train_gradient": TRAIN_GRADIENT, "test_gradient": TRAIN_GRADIENT}
    return {"method": method, "snr_db": snr, **gradients}


def _with_paper(
    method: str, paper: float, measure: Callable[[], dict[str, Any]]
) -> Callable[[], dict[str, Any]]:
    """Return a measurement that sets its pSNR against the paper's."""

    def compare() -> dict[str, Any]:
        row = measure()
        distance = {"difference": row["psnr_mean"] - paper, "wanted": WANTED.get(method, WANTED_OTHERS)}
        return row | {"paper_psnr": paper} | distance

    return compare


def _denoise(denoiser: ShelfBundle, count: int) -> dict[str, Any]:
    """Denoise test phantoms, the task of Eq. (26)."""
    rng = np.random.default_rng(26)
    images = vessel_images("test", count, reference_scan(TRAIN_GRADIENT).operators.grid, 0)
    truth = images * rng.uniform(*INTENSITY, (count, 1, 1)).astype(np.float32)
    noisy = truth + DENOISER_NOISE * rng.standard_normal(truth.shape).astype(np.float32)
    prior = OnnxPrior(load_bundle(denoiser.path))
    unused = np.zeros((count, 1, 1, 1), np.float32)  # no measurement, so no noise level of one
    return image_quality(prior(noisy[:, None], unused)[:, 0], truth)


def _picture(rows: Sequence[Row]) -> Figure:
    places = np.arange(len(rows))
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.bar(places - 0.2, [row["paper_psnr"] for row in rows], 0.4, label="authors' data", color="0.7")
    axes.bar(places + 0.2, [row["psnr_mean"] for row in rows], 0.4, label="simulated scanner")
    labels = [row["method"] + ("" if row["snr_db"] is None else f", {row['snr_db']:g} dB") for row in rows]
    axes.set_xticks(places, labels, rotation=40, ha="right", fontsize=8)
    axes.set_ylabel("mean pSNR in dB")
    axes.legend(loc="upper left", ncols=2)
    axes.set_ylim(top=45)
    axes.set_title("The same probes on the authors' data and on the simulated scanner")
    return figure
