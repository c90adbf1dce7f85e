"""The command `engine demo`: the whole path on built-in data."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from engine.calibration.calibrate import calibrate
from engine.machine.atomic_write import atomic_path
from engine.measurement.file_rows import measurement_rows
from engine.mpi.grid import Grid
from engine.mpi.mdf import read_mdf, write_mdf
from engine.mpi.mdf.new_files import new_reconstruction_file
from engine.mpi.metrics import psnr_db, ssim_windowed
from engine.mpi.simulation.scan import preset_scanner, simulate_calibration, simulate_measurement
from engine.mpi.simulation.truth import Truth, save_truth
from engine.operators.operators_file import save_operators
from engine.reconstruction.methods import open_method
from engine.reconstruction.reconstructor import Reconstruction, Reconstructor

PRESET = "reference-0.5"

METHODS_SHOWN = ("least-squares", "deq")

FRAMES_SHOWN = 4
"""Number of frames in the picture: one per column."""


@dataclass(frozen=True)
class MethodResult:
    """Figures of one method, means over the frames.

    Attributes
    ----------
    psnr : float
        Mean pSNR in dB (Eq. 37).
    ssim : float
        Mean windowed SSIM in %.
    iterations : float
        Mean number of evaluations of the fixed-point map.
    converged : float
        Fraction of the frames whose solve met its tolerance.
    milliseconds : float
        Wall time per frame.
    """

    psnr: float
    ssim: float
    iterations: float
    converged: float
    milliseconds: float


@dataclass(frozen=True)
class DemoResult:
    """Figures that the demonstration measured.

    Attributes
    ----------
    snr_db : float
        Mean measurement SNR of the frames (Eq. 36).
    frames : int
        Number of frames.
    methods : dict
        Results by method name.
    """

    snr_db: float
    frames: int
    methods: dict[str, MethodResult]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for `report.json`."""
        methods: dict[str, dict[str, float]] = {}
        for name, result in self.methods.items():
            methods[name] = {"psnr": result.psnr, "ssim": result.ssim, "ms": result.milliseconds}
            if result.iterations:
                methods[name] |= {"iterations": result.iterations, "converged": result.converged}
        return {"snr_db": self.snr_db, "frames": self.frames, "methods": methods}


def run_demo(
    out_dir: Path, n_frames: int, snr_db: float, seed: int, say: Callable[[str], None]
) -> DemoResult:
    """Write a simulated scan, its operators, both reconstructions, a picture and a report.

    Parameters
    ----------
    out_dir : Path
        Folder, created if missing. It gets system-matrix.mdf, measurement.mdf, truth.h5, operators.h5,
        least-squares.mdf, deq.mdf, images.png and report.json.
    n_frames : int
        Number of phantom images.
    snr_db : float
        Mean measurement SNR in dB.
    seed : int
        Seed of phantoms and noise.
    say : callable
        Function that receives one line at each stage.

    Returns
    -------
    DemoResult
    """
    scanner = preset_scanner(PRESET)
    say(f"simulating a calibration and {n_frames} frames at {snr_db:g} dB SNR ({PRESET})")
    measured = simulate_measurement(scanner, n_frames, snr_db, seed)
    out_dir.mkdir(parents=True, exist_ok=True)  # not before: impossible arguments leave nothing behind
    write_mdf(out_dir / "system-matrix.mdf", simulate_calibration(scanner, seed))
    write_mdf(out_dir / "measurement.mdf", measured.file)
    save_truth(out_dir / "truth.h5", Truth(measured.truth, measured.snr_db, scanner.grid))

    say("calibrating")
    operators = calibrate(out_dir / "system-matrix.mdf")
    save_operators(out_dir / "operators.h5", operators)

    measurement = read_mdf(out_dir / "measurement.mdf")
    frames = measurement_rows(measurement, operators).rows
    reconstructors = [Reconstructor(open_method(name, operators)) for name in METHODS_SHOWN]
    images: dict[str, NDArray[np.float32]] = {}
    results: dict[str, MethodResult] = {}
    for reconstructor in reconstructors:
        method = reconstructor.method
        say(f"reconstructing: {method}")
        reconstructor.reconstruct(frames[0])  # first calls allocate; not part of the timing
        done = [reconstructor.reconstruct(frame) for frame in frames]  # as in a scanner: one by one
        images[method] = np.stack([frame.image for frame in done])
        results[method] = _assess(done, measured.truth)
        write_mdf(
            out_dir / f"{method}.mdf",
            new_reconstruction_file(images[method], operators.grid, measurement),
        )

    result = DemoResult(float(measured.snr_db.mean()), n_frames, results)
    _draw(out_dir / "images.png", measured.truth, images, operators.grid)
    with atomic_path(out_dir / "report.json") as temporary:
        temporary.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
    return result


def _assess(done: list[Reconstruction], truth: NDArray[np.float32]) -> MethodResult:
    images = np.stack([frame.image for frame in done])[:, 0]
    reports = [frame.report for frame in done]
    return MethodResult(
        psnr=float(psnr_db(images, truth[:, 0]).mean()),
        ssim=float(ssim_windowed(images, truth[:, 0]).mean()),
        iterations=float(np.mean([report.iterations for report in reports])),
        converged=float(np.mean([report.converged for report in reports])),
        milliseconds=float(np.mean([report.milliseconds for report in reports])),
    )


def _draw(path: Path, truth: NDArray[np.float32], images: dict[str, NDArray[np.float32]], grid: Grid) -> None:
    """Draw a column per frame: truth, float32 (F, 1, Ny, Nx), on top, one method per row below."""
    from engine.reconstruction.pictures import Panel, save_pictures  # matplotlib is slow to import

    shown = range(min(FRAMES_SHOWN, len(truth)))
    panels = [Panel(f"truth {index}", truth[index]) for index in shown]
    for name, stack in images.items():
        panels += [Panel(f"{name} {index}", stack[index]) for index in shown]
    save_pictures(
        path,
        panels,
        grid,
        label="concentration / sample",
        limits=(0.0, float(truth[: len(shown)].max())),
    )


@click.command(short_help="Run all of the above on built-in data.")
@click.argument("out_dir", type=click.Path(file_okay=False, path_type=Path))
@click.option("--frames", type=click.IntRange(min=1), default=16, show_default=True, help="Phantom images.")
@click.option(
    "--snr", type=float, default=20.0, show_default=True, help="Mean measurement SNR in dB (Eq. 36)."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Phantoms and noise.")
def demo(out_dir: Path, frames: int, snr: float, seed: int) -> None:
    """Simulate a scan, calibrate, reconstruct it with the bundle that ships, and measure the images.

    OUT_DIR gets the MDF files in and out, operators.h5, images.png (truth, least-squares start, DEQ-MPI)
    and report.json.

    Example: engine demo demo-output
    """
    result = run_demo(out_dir, frames, snr, seed, click.echo)
    _print_table(result)
    click.echo(f"pictures: {out_dir / 'images.png'}   figures: {out_dir / 'report.json'}")


def _print_table(result: DemoResult) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{result.frames} frames at {result.snr_db:.1f} dB SNR, means")
    for column in ("method", "pSNR / dB", "SSIM / %", "iterations", "converged", "ms / frame"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, row in result.methods.items():
        iterative = row.iterations > 0
        table.add_row(
            name,
            f"{row.psnr:.2f}",
            f"{100 * row.ssim:.1f}",
            f"{row.iterations:.1f}" if iterative else "-",
            f"{100 * row.converged:.0f} %" if iterative else "-",
            f"{row.milliseconds:.1f}",
        )
    Console().print(table)
