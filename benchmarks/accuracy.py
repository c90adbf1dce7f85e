"""Image quality of the methods on the test split (Tables I and II): same and other selection-field gradient.

Data come from A_meas, reconstruction uses A_meas U D, one noise level per SNR (`engine.emulation`). The
networks were trained at 0.5 T/m; at 0.6 T/m only the operators change. "pretrained" is the fixed point of the
networks before the equilibrium training.
"""

import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.record import ROOT, write_record, write_table
from engine.bundle import load_bundle
from engine.emulation import Frames, Scan, emulate_frames, emulate_scan
from engine.mpi.metrics import psnr_db, ssim_global, ssim_windowed
from engine.pictures import Panel, save_pictures
from engine.reconstructor import Reconstructor
from engine.sessions import OnnxConsistency, OnnxPrior
from engine.solvers.equilibrium import Equilibrium
from engine.solvers.least_squares import LeastSquares
from export.bundle import export_networks
from trainer.checkpoint import PRETRAINED_WEIGHTS, build_model, load_networks, load_weights

RUN = ROOT / "models" / "reference"
"""Run folder of the bundle that ships."""

GRADIENTS = (0.5, 0.6)
TRAIN_GRADIENT = 0.5
SNRS = (15.0, 20.0, 25.0, 30.0, 35.0)
GALLERY_SNR = 25.0
GALLERY_FRAMES = 4

Solver = Reconstructor


def run(quick: bool, output: Path) -> None:
    """Measure every method and write accuracy.json, accuracy.md, accuracy.png and accuracy-gallery.png."""
    count = 48 if quick else 512
    console = Console(stderr=True)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        bundles = {"pretrained": _pretrained_bundle(Path(folder)), "deq": None}
        for gradient in GRADIENTS:
            scan = emulate_scan(f"reference-{gradient}")
            solvers: dict[str, Solver] = {"least-squares": Reconstructor(LeastSquares(scan.operators))}
            solvers |= {name: _reconstructor(scan, bundle) for name, bundle in bundles.items()}
            for snr in SNRS:
                frames = emulate_frames(scan, count, snr)
                images = {}
                for method, solver in solvers.items():
                    row, images[method] = _measure(method, solver, scan, frames)
                    rows.append(
                        {"method": method, "snr_db": snr, "train_gradient": TRAIN_GRADIENT}
                        | {"test_gradient": gradient}
                        | row
                    )
                    console.print(f"{gradient} T/m, {snr:g} dB, {method}: {row['psnr_mean']:.2f} dB pSNR")
                if gradient == TRAIN_GRADIENT and snr == GALLERY_SNR:
                    _gallery(output / "accuracy-gallery.png", scan, frames, images)
    config = {
        "quick": quick,
        "frames": count,
        "seed": 0,
        "split": "test",
        "bundle": load_bundle(None).manifest.name,
    }
    write_record(output / "accuracy.json", config, rows)
    notes = (
        "pSNR in dB (Eq. 37), SSIM in % in the paper's form over the whole image (Eq. 38) and windowed. "
        "Trained at 0.5 T/m. `pretrained` is the fixed point of the networks before the equilibrium training."
    )
    write_table(output / "accuracy.md", "Image quality on the test split", notes, rows)
    _picture(output / "accuracy.png", rows)


def _pretrained_bundle(folder: Path) -> Path:
    """Export the pre-trained networks of the shipped run."""
    _, _, config = load_networks(RUN)
    model = build_model(config.model)
    load_weights(RUN / PRETRAINED_WEIGHTS, model)
    bundle = folder / "pretrained"
    export_networks(model.rdn, model.lc, bundle, "pretrained")
    return bundle


def _reconstructor(scan: Scan, bundle_path: Path | None) -> Reconstructor:
    bundle = load_bundle(bundle_path)
    return Reconstructor(Equilibrium(scan.operators, OnnxPrior(bundle), OnnxConsistency(bundle), bundle.manifest.solver))


def _measure(
    method: str, solver: Solver, scan: Scan, frames: Frames
) -> tuple[dict[str, Any], NDArray[np.float32]]:
    done = solver.reconstruct_frames(frames.rows * scan.operators.scale)
    images = np.stack([frame.image[0] for frame in done])
    psnr = psnr_db(images, frames.truth)
    ssim, windowed = (100 * metric(images, frames.truth) for metric in (ssim_global, ssim_windowed))
    iterative = method != LeastSquares.method
    reports = [frame.report for frame in done]
    row = {
        "psnr_mean": float(psnr.mean()),
        "psnr_std": float(psnr.std()),
        "ssim_mean": float(ssim.mean()),
        "ssim_std": float(ssim.std()),
        "ssim_windowed_mean": float(windowed.mean()),
        "iterations": float(np.mean([report.iterations for report in reports])) if iterative else None,
        # Of the iterate given back, the best one.
        "residual_median": float(np.median([min(report.residuals) for report in reports]))
        if iterative
        else None,
        "n": len(images),
        "ms": float(np.median([report.milliseconds for report in reports])),
    }
    return row, images


def _gallery(path: Path, scan: Scan, frames: Frames, images: dict[str, NDArray[np.float32]]) -> None:
    shown = range(GALLERY_FRAMES)
    panels = [Panel(f"truth {index}", frames.truth[index][None]) for index in shown]
    for method, stack in images.items():
        panels += [Panel(f"{method} {index}", stack[index][None]) for index in shown]
    limits = (0.0, float(frames.truth[:GALLERY_FRAMES].max()))
    save_pictures(path, panels, scan.operators.grid, label="intensity", limits=limits)


def _picture(path: Path, rows: list[dict[str, Any]]) -> None:
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
    for axes, gradient in zip(panels, GRADIENTS, strict=True):
        for method in dict.fromkeys(row["method"] for row in rows):
            chosen = [row for row in rows if row["method"] == method and row["test_gradient"] == gradient]
            axes.plot(
                [row["snr_db"] for row in chosen], [row["psnr_mean"] for row in chosen], "o-", label=method
            )
        axes.set_title(f"tested at {gradient} T/m")
        axes.set_xticks(SNRS)
        axes.set_xlabel("measurement SNR in dB")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("mean pSNR in dB")
    panels[0].legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
