"""Image quality against the time of a frame (the paper's Fig. 10 and Table III), for every method.

Frames are reconstructed one by one, as a scanner delivers them, on one core: normalising, solving and scaling
back, everything between the whitened rows and the image. Each method runs at several limits on its
iterations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.contestants.contestant import Contestant, as_shipped, trained_at
from benchmarks.contestants.model_shelf import MissingModelError, ModelShelf
from benchmarks.contestants.paper import TABLE_III
from benchmarks.harness.benchmark_run import BenchmarkRun
from benchmarks.harness.quality import image_quality
from benchmarks.harness.record import markdown_table
from benchmarks.scans.scans import TRAIN_GRADIENT, frames_of_test_split, reference_scan
from engine.errors import BundleError
from engine.reconstruction.methods import METHODS
from export.errors import ExportError, ParityError

FRAMES = 32
QUICK_FRAMES = 3

SNRS = (35.0, 15.0)

WARM_UP = 2
"""Frames reconstructed before the clock counts."""

LIMITS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "least-squares": (),
        "tikhonov": (),
        "art": (1, 2, 3, 5, 10, 20),
        "admm-l1": (5, 10, 20, 50, 100, 200),
        "admm-tv": (5, 10, 20, 50, 100, 200),
        "admm-hybrid": (5, 10, 20, 50, 100, 200),
        "pp-mpi": (2, 5, 10, 20, 50, 150),
        "end-to-end": (),
        "unrolled": (1, 2, 3, 4, 5, 7, 10),
        "deq-ball": (2, 3, 5, 7, 10, 15, 25, 50),
        "deq": (2, 3, 5, 7, 10, 15, 25, 50),
    }
)
"""Limits on the iterations of each method, besides the one it has by default."""

Row = Mapping[str, Any]


def run(quick: bool, output: Path) -> None:
    """Measure every method and write quality_time.json, quality_time.md and quality_time.png."""
    count = QUICK_FRAMES if quick else FRAMES
    config = {"quick": quick, "frames": count, "seed": 0, "split": "test"}
    with BenchmarkRun("quality_time", output, config) as benchmark:
        field = [(snr, method) for snr in SNRS for method in _methods(snr, benchmark)]
        benchmark.expect(sum(1 + len(_limits(method, quick)) for _, method in field))
        for snr, method in field:
            for limit in (None, *_limits(method, quick)):
                _row(benchmark, snr, method, limit, count)
        rows = benchmark.rows
        trained = [name for name in LIMITS if not METHODS[name].works_as_installed]
        blocks = [
            "Single frames on one core, from whitened rows to the image. "
            f"{', '.join(trained)}: networks trained at the SNR of the test.",
            f"## Iterations and milliseconds of a frame (Table III), at {SNRS[0]:g} dB",
            "Ours at the limit that each method has by default. The paper's times are of a Tesla V100.",
            markdown_table(beside_table_iii(rows)),
            "![pSNR against milliseconds per frame](quality_time.png)",
            "Rings: the default number of iterations.",
            "## All figures\n\n`limit`: most iterations allowed (-: the method's default); `iterations`: "
            "mean of those done; `ms`, `ms_p99`: median and 99th percentile over the frames.",
        ]
        benchmark.publish("Image quality against time", blocks, {"quality_time.png": _picture(rows)})


def _methods(snr: float, benchmark: BenchmarkRun) -> list[Contestant]:
    shelf = ModelShelf()
    found = []
    for method in LIMITS:
        try:
            ships = METHODS[method].works_as_installed
            found.append(as_shipped(method) if ships else trained_at(method, snr, shelf, method))
        except (MissingModelError, BundleError, ExportError, ParityError) as error:
            benchmark.leave_out(f"{method}, {snr:g} dB: {error}")
    return found


def _limits(contestant: Contestant, quick: bool) -> tuple[int, ...]:
    limits = LIMITS[contestant.method]
    return limits[1::3] if quick else limits


def _row(benchmark: BenchmarkRun, snr: float, contestant: Contestant, limit: int | None, count: int) -> None:
    def measure() -> dict[str, Any]:
        frames = frames_of_test_split(TRAIN_GRADIENT, count, snr)
        operators = reference_scan(TRAIN_GRADIENT).operators
        limited = replace(contestant, settings=replace(contestant.settings, max_iterations=limit))
        solver = limited.open(operators)
        rows = frames.rows * operators.scale
        for frame in rows[:WARM_UP]:
            solver.reconstruct(frame)
        done = [solver.reconstruct(frame) for frame in rows]
        milliseconds = [frame.report.milliseconds for frame in done]
        images = np.stack([frame.image[0] for frame in done])
        return image_quality(images, frames.truth) | {
            "iterations": float(np.mean([frame.report.iterations for frame in done])),
            "ms": float(np.median(milliseconds)),
            "ms_p99": float(np.percentile(milliseconds, 99)),
        }

    key = {
        "method": contestant.name,
        "snr_db": snr,
        "train_gradient": TRAIN_GRADIENT,
        "test_gradient": TRAIN_GRADIENT,
        "limit": limit,
    }
    benchmark.row(key, measure, contestant.identity)


def beside_table_iii(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return Table III beside ours: one row per method of either, with the default limits at `SNRS[0]`.

    Parameters
    ----------
    rows : sequence of mapping
        With method, snr_db, limit, iterations, psnr_mean, ms and ms_p99.
    """
    ours = {row["method"]: row for row in rows if row["snr_db"] == SNRS[0] and row["limit"] is None}
    table = []
    for method in dict.fromkeys((*ours, *TABLE_III)):
        row, paper = ours.get(method, {}), TABLE_III.get(method)
        table.append(
            {
                "method": method,
                "iterations": row.get("iterations"),
                "ms": row.get("ms"),
                "ms, 99 %": row.get("ms_p99"),
                "pSNR": row.get("psnr_mean"),
                "paper: iterations": paper and paper.iterations,
                "paper: ms": paper and paper.milliseconds,
            }
        )
    return table


def _picture(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(12, 5), layout="constrained")
    panels = figure.subplots(1, len(SNRS))
    for axes, snr in zip(panels, SNRS, strict=True):
        _draw(axes, [row for row in rows if row["snr_db"] == snr])
        axes.set_title(f"{snr:g} dB")
    panels[0].set_ylabel("mean pSNR in dB")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    return figure


def _draw(axes: Axes, rows: Sequence[Row]) -> None:
    for number, method in enumerate(LIMITS):
        chosen = sorted((row for row in rows if row["method"] == method), key=lambda row: row["iterations"])
        line = [(row["ms"], row["psnr_mean"]) for row in chosen]
        ring = [(row["ms"], row["psnr_mean"]) for row in chosen if row["limit"] is None]
        marker, colour = ("s" if number == len(LIMITS) - 1 else "o"), f"C{number % 10}"
        if line:
            axes.plot(*np.transpose(line), marker + "-", color=colour, lw=0.8, ms=4, label=method)
        if ring:
            axes.plot(*np.transpose(ring), marker, color=colour, ms=10, mfc="none")
    axes.set(xscale="log", xlabel="milliseconds per frame")
    axes.grid(alpha=0.3)
