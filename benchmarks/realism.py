"""How close the simulated problem is to the paper's: the authors' own networks as a probe.

Needs the authors' published weights (a folder named by the environment variable DEQMPI_ICONLAB, or
`../shared/iconlab` beside the repository). The hand-crafted priors are quick stand-ins (plain ADMM with
scikit-image's TV), enough to place the problem.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from skimage.restoration import denoise_tv_chambolle

from benchmarks.record import ROOT, write_record, write_table
from engine.emulation import Frames, Scan, emulate_frames, emulate_scan
from engine.errors import InputError
from engine.fixed_point import FixedPointConfig
from engine.mpi.metrics import psnr_db
from engine.mpi.phantoms import vessel_images
from engine.protocols import Consistency, Float32Array, ImagePrior
from engine.reconstructor import Reconstructor
from engine.solvers.equilibrium import Equilibrium
from engine.solvers.least_squares import LeastSquares
from export.iconlab import LC_PREFIX, RDN_PREFIX, load_iconlab

PAPER = {
    ("denoiser", None): 29.5,
    ("least-squares", 14.4): 12.3,
    ("admm-l1", 15.0): 18.9,
    ("admm-tv", 15.0): 27.3,
    ("admm-hybrid", 15.0): 28.7,
    ("pp-mpi", 15.0): 30.6,
    ("deq, authors' weights", 15.0): 32.1,
    ("deq, authors' weights", 25.0): 34.8,
    ("deq, authors' weights", 35.0): 37.7,
}
"""pSNR in dB on the authors' data (denoiser and least squares: their code; the rest: Table I)."""

WANTED = {"denoiser": 1.5, "admm-l1": 4.0, "admm-tv": 4.0, "admm-hybrid": 4.0}
"""Largest distance from the paper in dB at which the problem counts as the same; 3 dB for the others."""

CHECKPOINTS = {15.0: "deqmpi_psnr10.pth", 25.0: "deqmpi_psnr20.pth", 35.0: "deqmpi_psnr30.pth"}
"""Published weights by the measurement SNR that they were trained at."""

DENOISER_NOISE = 0.1
CHAMBOLLE_ITERATIONS = 60


def run(quick: bool, output: Path) -> None:
    """Measure every probe and write realism.json, realism.md and realism.png."""
    torch.set_num_threads(1)
    weights = _weights_folder()
    count = 12 if quick else 64
    scan = emulate_scan("reference-0.5")
    console = Console(stderr=True)
    rows: list[dict[str, Any]] = []

    def add(method: str, snr: float | None, values: NDArray[np.floating]) -> None:
        paper = PAPER.get((method, snr))
        mean = float(np.mean(values))
        rows.append(
            {
                "method": method,
                "snr_db": snr,
                "psnr_mean": mean,
                "psnr_std": float(np.std(values)),
                "paper": paper,
                "difference": None if paper is None else mean - paper,
                "wanted": None if paper is None else WANTED.get(method, 3.0),
                "n": count,
            }
        )
        console.print(f"{method:28s} {'' if snr is None else snr:>5} dB: {mean:.2f} dB pSNR")

    add("denoiser", None, _denoise(weights, scan, count))
    add(
        "least-squares", 14.4, _quality(Reconstructor(LeastSquares(scan.operators)), scan, emulate_frames(scan, count, 14.4))
    )
    for snr, checkpoint in CHECKPOINTS.items():
        frames = emulate_frames(scan, count, snr)
        for method, prior, iterations in _opponents(weights):
            solver = Reconstructor(Equilibrium(scan.operators, prior, _ball, _plain(iterations)))
            add(method, snr, _quality(solver, scan, frames))
        rdn, lc = load_iconlab(weights / checkpoint)
        solver = Reconstructor(Equilibrium(scan.operators, _network_prior(rdn), _network_consistency(lc), _plain(25)))
        add("deq, authors' weights", snr, _quality(solver, scan, frames))
    config = {"quick": quick, "preset": "reference-0.5", "seed": 0, "frames": count}
    write_record(output / "realism.json", config, rows)
    notes = (
        "`paper` is the figure on the authors' data, `wanted` the distance that still counts as the same "
        "problem. Data: A_meas x + n; reconstruction with A_meas U D; one noise level per SNR."
    )
    write_table(output / "realism.md", "Realism of the simulated scanner (pSNR in dB)", notes, rows)
    _picture(output / "realism.png", rows)


def _weights_folder() -> Path:
    folder = Path(os.environ.get("DEQMPI_ICONLAB", ROOT.parent / "shared" / "iconlab"))
    if not folder.is_dir():
        raise InputError(
            f"the authors' weights are not at {folder}; set DEQMPI_ICONLAB to the folder that holds them"
        )
    return folder


def _plain(iterations: int) -> FixedPointConfig:
    return FixedPointConfig(memory=0, tolerance=0.0, max_iterations=iterations)


def _denoise(weights: Path, scan: Scan, count: int) -> NDArray[np.float64]:
    """Denoise test phantoms with noise of standard deviation 0.1 (Eq. 26's task)."""
    rng = np.random.default_rng(26)
    images = vessel_images("test", count, scan.operators.grid, 0)
    truth = images * rng.uniform(0.5, 1.5, (count, 1, 1)).astype(np.float32)
    noisy = truth + DENOISER_NOISE * rng.standard_normal(truth.shape).astype(np.float32)
    prior = _network_prior(_denoiser(weights))
    return np.asarray(psnr_db(prior(noisy[:, None])[:, 0], truth))


def _quality(solver: Reconstructor, scan: Scan, frames: Frames) -> NDArray[np.float64]:
    whitened = frames.rows * scan.operators.scale
    sigma = frames.noise_std * scan.operators.scale
    images = np.stack([solver.reconstruct(rows, sigma).image[0] for rows in whitened])
    return psnr_db(images, frames.truth)


def _denoiser(weights: Path) -> torch.nn.Module:
    """Return the authors' denoiser: their two pre-trained networks, joined to a checkpoint and imported."""
    joined: dict[str, torch.Tensor] = {}
    for name, prefix in (("ppmpi_denoiser.pth", RDN_PREFIX), ("lc_pretrained.pth", LC_PREFIX)):
        content = torch.load(weights / name, map_location="cpu", weights_only=True)
        joined |= {prefix + key: value for key, value in content.items()}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "pretrained.pth"
        torch.save(joined, checkpoint)
        return load_iconlab(checkpoint)[0]


def _opponents(weights: Path) -> list[tuple[str, ImagePrior, int]]:
    """Priors with one hand-set weight each for all SNRs, chosen at 15 dB."""
    denoiser = _network_prior(_denoiser(weights))
    return [
        ("admm-l1", _soft_threshold(1 / 250), 200),
        ("admm-tv", _total_variation(1 / 10), 100),
        ("admm-hybrid", _composed(_total_variation(1 / 10), _soft_threshold(1 / 5)), 100),
        ("pp-mpi", denoiser, 150),
    ]


def _soft_threshold(weight: float) -> ImagePrior:
    def prior(v: Float32Array) -> Float32Array:
        return np.asarray(np.maximum(v - np.float32(weight), 0), np.float32)

    return prior


def _total_variation(weight: float) -> ImagePrior:
    def prior(v: Float32Array) -> Float32Array:
        smooth = denoise_tv_chambolle(  # type: ignore[no-untyped-call]
            v[0, 0], weight=weight, max_num_iter=CHAMBOLLE_ITERATIONS
        )
        return np.asarray(np.maximum(smooth, 0)[None, None], np.float32)

    return prior


def _composed(first: ImagePrior, second: ImagePrior) -> ImagePrior:
    return lambda v: second(first(v))


def _ball(v: Float32Array, y: Float32Array, _mask: Float32Array, epsilon: Float32Array) -> Float32Array:
    """Project on the epsilon ball around y (Eq. 10)."""
    difference = v - y
    factor = min(1.0, float(epsilon.item()) / max(float(np.linalg.norm(difference)), 1e-12))
    return np.asarray(y + np.float32(factor) * difference, np.float32)


def _network_prior(network: Callable[[torch.Tensor], torch.Tensor]) -> ImagePrior:
    def prior(v: Float32Array) -> Float32Array:
        with torch.no_grad():
            return np.asarray(network(torch.from_numpy(v)).numpy())

    return prior


def _network_consistency(network: Callable[..., torch.Tensor]) -> Consistency:
    def consistency(
        v: Float32Array, y: Float32Array, mask: Float32Array, epsilon: Float32Array
    ) -> Float32Array:
        with torch.no_grad():
            return np.asarray(network(*(torch.from_numpy(a) for a in (v, y, mask, epsilon))).numpy())

    return consistency


def _picture(path: Path, rows: list[dict[str, Any]]) -> None:
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    known = [row for row in rows if row["paper"] is not None]
    places = np.arange(len(known))
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    axes.bar(places - 0.2, [row["paper"] for row in known], 0.4, label="authors' data", color="0.7")
    axes.bar(places + 0.2, [row["psnr_mean"] for row in known], 0.4, label="simulated scanner")
    labels = [row["method"] + ("" if row["snr_db"] is None else f"\n{row['snr_db']:g} dB") for row in known]
    axes.set_xticks(places, labels, rotation=30, ha="right", fontsize=8)
    axes.set_ylabel("mean pSNR in dB")
    axes.legend()
    axes.set_title("The authors' networks on their data and on the simulated scanner")
    figure.savefig(path, dpi=110)
    plt.close(figure)
