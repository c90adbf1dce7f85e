"""Time and memory of a frame against the size of grid and measurement, dense and with factors.

Grids from 13 x 26 to 64 x 64 voxels for deq, whose networks are two-dimensional, and from 19^3 to 32^3 for
methods that take volumes; 5000 to 30,000 rows. The operators are made up
(`benchmarks.scans.scaled_operators`), as only their size matters. What a truncation costs in image quality is
measured on the reference scanner.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from benchmarks.contestants.truncated_quality import measure_quality
from benchmarks.harness.benchmark_run import BenchmarkRun
from benchmarks.harness.record import ROOT, markdown_table
from benchmarks.scans.scaled_operators import Size, made_up_operators
from benchmarks.scans.scaling_frame import MEGABYTE, dense_bytes
from benchmarks.scans.scans import TRAIN_GRADIENT, reference_scan
from engine.errors import DeqMpiError
from engine.operators.factorisation import DEFAULT_RANK_SHARE
from engine.operators.operators_file import save_operators

PLANES = {(13, 26, 1): 5000, (32, 32, 1): 7000, (48, 48, 1): 9000, (64, 64, 1): 12_000}
VOLUMES = {(19, 19, 19): 15_000, (25, 25, 25): 22_000, (32, 32, 32): 30_000}
"""Real rows R by grid (Nx, Ny, Nz)."""

N_TRIPLETS = (338, 1000)
"""Factors K; only those that a grid has voxels for."""

DENSE_LIMIT = 2e9
"""Bytes of dense operators above which they are not made: that takes minutes and fills a small machine."""

PLANE_METHODS = ("deq",)
VOLUME_METHODS = ("least-squares", "admm-l1")

EVALUATIONS = 25
FRAMES = 5
QUICK_FRAMES = 2

QUALITY_TRIPLETS = (60, 100, 140, 180, 220, 260, 300, 338)
QUICK_QUALITY_TRIPLETS = (100, 338)
QUALITY_METHODS = ("deq", "admm-l1", "tikhonov")
QUALITY_SNRS = (15.0, 35.0)
QUALITY_FRAMES = 32
QUICK_QUALITY_FRAMES = 4

DENSE, FACTORS = "dense", "factors"

COLOURS = {DENSE: "C3", **{f"K = {k}": f"C{index}" for index, k in enumerate(N_TRIPLETS)}}
MARKS = {"deq": "o-", "admm-l1": "s--", "least-squares": "^--"}

Row = Mapping[str, Any]


class FrameProcessError(DeqMpiError):
    """The process that reconstructs one frame ended without figures."""


def run(quick: bool, output: Path) -> None:
    """Measure every size and write scaling.json, scaling.md and scaling.png."""
    frames = QUICK_FRAMES if quick else FRAMES
    config = {"quick": quick, "frames": frames, "evaluations": EVALUATIONS, "made_up": True, "split": "test"}
    with BenchmarkRun("scaling", output, config) as benchmark, TemporaryDirectory() as folder:
        cases = [(size, method) for size, methods in _sizes(quick, benchmark) for method in methods]
        fidelity = list(_quality_cases(quick))
        benchmark.expect(len(cases) + len(fidelity))
        file = OperatorsFile(Path(folder) / "operators.h5")
        for size, method in cases:
            key = {
                "method": method,
                "grid": " x ".join(str(n) for n in size.grid if n > 1),
                "operators": DENSE if size.n_triplets is None else FACTORS,
                "n_triplets": size.n_triplets or size.n_voxels,
                "n_voxels": size.n_voxels,
                "n_rows": size.n_rows,
            }
            benchmark.row(key, partial(_measured_apart, file, size, method, frames))
        for method, snr, n_triplets in fidelity:
            key = {"method": method, "snr_db": snr, "n_triplets": n_triplets}
            count = QUICK_QUALITY_FRAMES if quick else QUALITY_FRAMES
            benchmark.row(key, partial(measure_quality, method, snr, n_triplets, count))
        rows = benchmark.rows
        blocks = [
            "One frame on one core; medians. `evaluation`: one iteration, networks included; `products`: "
            "A x and M Aᵀr + M u, what an evaluation of deq needs; `frame`: from whitened rows to "
            f"the image, {EVALUATIONS} evaluations where the method iterates.",
            "## Milliseconds",
            markdown_table(_times(rows)),
            "## Megabytes\n\n`arrays`: those of the operators; `peak`: all of the process, of which "
            "`imports` were there before the operators.",
            markdown_table(_memory(rows)),
            "![Time and memory against voxels, and pSNR against factors](scaling.png)",
            "## What a truncation costs\n\nMean pSNR in dB on the reference scanner (338 voxels, 5838 rows).",
            markdown_table(_fidelity(rows)),
            "## All figures",
        ]
        benchmark.publish("Time and memory against size", blocks, {"scaling.png": _picture(rows)})


class OperatorsFile:
    """A file that holds the operators of the size asked for last.

    Parameters
    ----------
    path : Path
        Where the file goes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: Size | None = None

    def of(self, size: Size) -> Path:
        """Return the path, with operators of this size in the file."""
        if size != self._held:
            spectrum = reference_scan(TRAIN_GRADIENT).operators.singular_values
            save_operators(self._path, made_up_operators(size, spectrum))
            self._held = size
        return self._path


def _sizes(quick: bool, benchmark: BenchmarkRun) -> Iterator[tuple[Size, tuple[str, ...]]]:
    for grids, methods in ((PLANES, PLANE_METHODS), (VOLUMES, VOLUME_METHODS)):
        for grid, n_rows in list(grids.items())[: 1 if quick else None]:
            for n_triplets in (None, *N_TRIPLETS):
                size = Size(grid, n_rows, n_triplets)
                if n_triplets is not None and n_triplets > size.n_voxels:
                    continue
                bytes_needed = dense_megabytes(size.n_voxels, n_rows) * MEGABYTE
                if n_triplets is None and (bytes_needed > DENSE_LIMIT or (quick and grid[2] > 1)):
                    benchmark.leave_out(
                        f"dense operators of {' x '.join(map(str, grid))} voxels and {n_rows} rows: "
                        f"{bytes_needed / 1e9:.1f} GB"
                    )
                    continue
                yield size, methods


def dense_megabytes(n_voxels: int, n_rows: int) -> float:
    """Return the megabytes of dense operators of a size, for a method with products."""
    return dense_bytes(n_voxels, n_rows, round(DEFAULT_RANK_SHARE * n_voxels)) / MEGABYTE


def _quality_cases(quick: bool) -> Iterator[tuple[str, float, int]]:
    for method in QUALITY_METHODS[: 1 if quick else None]:
        for snr in QUALITY_SNRS:
            for n_triplets in QUICK_QUALITY_TRIPLETS if quick else QUALITY_TRIPLETS:
                yield method, snr, n_triplets


def _measured_apart(file: OperatorsFile, size: Size, method: str, frames: int) -> dict[str, Any]:
    path = file.of(size)
    figures = measure_in_process(path, method, frames)
    return figures | {"dense_mb": dense_megabytes(size.n_voxels, size.n_rows)}


def measure_in_process(path: Path, method: str, frames: int) -> dict[str, Any]:
    """Return the figures of `benchmarks.scans.scaling_frame.measure_frame` from a new process.

    Raises
    ------
    FrameProcessError
        If the process fails.
    """
    command = [sys.executable, "-m", "benchmarks.scans.scaling_frame", str(path), method, str(frames)]
    done = subprocess.run(  # noqa: S603 - fixed program and arguments
        [*command, str(EVALUATIONS)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise FrameProcessError(f"{method} on {path.name} ended with code {done.returncode}: {last[0]}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def _timed(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if "frame_ms" in row]


def _times(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [
        _named(row)
        | {
            "normalise": _digits(row["normalise_ms"]),
            "evaluation": _digits(row["evaluation_ms"]),
            "products": _digits(products_ms(row)),
            "frame": _digits(row["frame_ms"]),
        }
        for row in _timed(rows)
    ]


def _memory(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [
        _named(row)
        | {
            "arrays": _digits(row["operators_mb"]),
            "peak": _digits(row["peak_mb"]),
            "imports": _digits(row["imports_mb"]),
        }
        for row in _timed(rows)
    ]


def _named(row: Row) -> dict[str, Any]:
    return {
        "method": row["method"],
        "grid": row["grid"],
        "N": row["n_voxels"],
        "R": row["n_rows"],
        "operators": _form(row),
    }


def products_ms(row: Row) -> float | None:
    """Return the milliseconds of the products of one evaluation of deq; None for other methods."""
    if row["rows_of_ms"] is None:
        return None
    return float(row["rows_of_ms"] + row["image_of_ms"])


def _digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _fidelity(rows: Sequence[Row]) -> list[dict[str, Any]]:
    found = [row for row in rows if "psnr_mean" in row]
    lines = []
    for n_triplets in dict.fromkeys(row["n_triplets"] for row in found):
        some = [row for row in found if row["n_triplets"] == n_triplets]
        line = {
            "K": n_triplets,
            "relative error": f"{some[0]['truncation_error']:.3f}",
            "largest dropped s": f"{some[0]['largest_dropped']:.2f}",
        }
        lines.append(
            line | {f"{row['method']}, {row['snr_db']:g} dB": f"{row['psnr_mean']:.2f}" for row in some}
        )
    return lines


def _picture(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(11, 9), layout="constrained")
    evaluation, products, memory, quality = figure.subplots(2, 2).flat
    timed = [dict(row) | {"products_ms": products_ms(row)} for row in _timed(rows)]
    evaluation.set(title="one evaluation, networks included", ylabel="ms")
    _curves(evaluation, timed, "evaluation_ms")
    products.set(title="products of one evaluation of deq", ylabel="ms")
    _curves(products, timed, "products_ms")
    memory.set(title="arrays of the operators; faint: peak of the process", ylabel="MB")
    _curves(memory, timed, "operators_mb")
    _curves(memory, timed, "peak_mb", alpha=0.3)
    sizes = sorted({(row["n_voxels"], row["dense_mb"]) for row in timed})
    memory.plot(*zip(*sizes, strict=True), ":", color="0.4", zorder=1)
    memory.annotate("dense, computed ", sizes[-1], ha="right", va="center", color="0.4")
    _logarithmic(evaluation, timed)
    _logarithmic(products, [row for row in timed if row["products_ms"] is not None])
    _logarithmic(memory, timed)
    _draw_fidelity(quality, rows)
    _explain(figure, timed)
    return figure


def _curves(axes: Axes, rows: Sequence[Row], figure: str, alpha: float = 1.0) -> None:
    known = [row for row in rows if row[figure] is not None]
    for method, held in dict.fromkeys((row["method"], _form(row)) for row in known):
        course = [row for row in known if (row["method"], _form(row)) == (method, held)]
        axes.plot(
            [row["n_voxels"] for row in course],
            [row[figure] for row in course],
            MARKS[method],
            color=COLOURS[held],
            alpha=alpha,
        )


def _logarithmic(axes: Axes, rows: Sequence[Row]) -> None:
    voxels = sorted({row["n_voxels"] for row in rows})
    axes.set(xscale="log", yscale="log", xlabel="voxels N")
    axes.set_xticks(voxels, [str(n) for n in voxels], rotation=30)
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)


def _explain(figure: Figure, rows: Sequence[Row]) -> None:
    colours = [Line2D([], [], color=colour, label=held) for held, colour in COLOURS.items()]
    methods = dict.fromkeys(row["method"] for row in rows)
    marks = [Line2D([], [], color="0.3", marker=MARKS[name][0], ls="", label=name) for name in methods]
    figure.legend(handles=[*colours, *marks], loc="outside lower left", ncols=6, frameon=False)


def _form(row: Row) -> str:
    return DENSE if row["operators"] == DENSE else f"K = {row['n_triplets']}"


def _draw_fidelity(axes: Axes, rows: Sequence[Row]) -> None:
    found = [row for row in rows if "psnr_mean" in row]
    styles = dict(zip(QUALITY_SNRS, (":", "-"), strict=True))
    for method, snr in dict.fromkeys((row["method"], row["snr_db"]) for row in found):
        course = [row for row in found if (row["method"], row["snr_db"]) == (method, snr)]
        axes.plot(
            [row["n_triplets"] for row in course],
            [row["psnr_mean"] for row in course],
            f"o{styles[snr]}",
            ms=4,
            color=f"C{QUALITY_METHODS.index(method) + 2}",
            label=f"{method}, {snr:g} dB",
        )
    axes.set(xlabel="factors K of 338", ylabel="mean pSNR in dB", title="reference scanner")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3, frameon=False, fontsize="small")
