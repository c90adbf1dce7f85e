"""How often the truth lies inside the intervals of the images: at the noise of the calibration and beyond it.

Intervals were calibrated on validation phantoms at 0.5 T/m. They are tested on the test split, whose trees
nobody saw, at both gradients, at SNRs between and outside the calibrated ones, and on phantoms that are not
vessels.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.contestants.contestant import as_shipped
from benchmarks.harness.benchmark_run import BenchmarkRun
from benchmarks.harness.quality import reconstruct
from benchmarks.harness.record import markdown_table
from benchmarks.pages.image_matrix import Column, draw_matrix
from benchmarks.scans.drawn_phantoms import two_tubes, y_shape
from benchmarks.scans.scans import (
    EXPERIMENT_SNR,
    GRADIENTS,
    TRAIN_GRADIENT,
    TRAIN_SNRS,
    frames_of_image,
    frames_of_test_split,
    reference_scan,
)
from engine.mpi.grid import Grid
from engine.networks.bundle import load_bundle
from engine.networks.interval_table import Intervals
from engine.reconstruction.methods import default_bundle_path
from engine.tuning.emulation import Frames
from engine.tuning.fit_intervals import (
    COVERAGE,
    CalibrationPlan,
    Residuals,
    fit_intervals,
    residuals_of,
    validation_residuals,
)

METHOD = "deq"

FRAMES, QUICK_FRAMES = 192, 8
REPETITIONS, QUICK_REPETITIONS = 8, 2
"""Measurements of each drawn phantom."""

QUICK_PLAN = CalibrationPlan(frames=24, snr_db=(5.0, 25.0, 45.0))

NOMINAL = (0.5, 0.6, 0.7, 0.8, COVERAGE, 0.95)
"""Coverages that are calibrated here, to see whether each is met."""

SPLIT, TUBES, Y_SHAPE = "test split", "two tubes", "Y"

DRAWN: Mapping[str, Callable[[Grid], NDArray[np.float32]]] = {TUBES: two_tubes, Y_SHAPE: y_shape}

BETWEEN, BEYOND = 17.5, 60.0
"""SNRs in dB that were not calibrated, the second above the range."""

CLASSES = (0.0, 0.1, 0.3, 0.6, 1.0)
"""Borders of the classes of truth, relative to the peak of the frame. Above 0.1 is called a vessel."""

VESSEL = CLASSES[1]

ASKED = 0.02
"""Largest difference from the nominal coverage that is asked for on the test split."""

SHIPPED, FITTED = "as shipped", "fitted here"

EXAMPLE_SNRS = (5.0, 15.0, 35.0)

EXAMPLE = "example"
"""Column of the kept rows that holds the first frame; it is not published."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """Frames to test on: what they show, their gradient in T/m and mean SNR in dB."""

    phantom: str
    gradient: float
    snr: float
    count: int

    def frames(self) -> Frames:
        """Measure them."""
        if self.phantom == SPLIT:
            return frames_of_test_split(self.gradient, self.count, self.snr)
        image = DRAWN[self.phantom](reference_scan(self.gradient).operators.grid)
        return frames_of_image(self.gradient, image, self.count, self.snr)


def run(quick: bool, output: Path) -> None:
    """Measure the coverage and write coverage.json, coverage.md, coverage.png and coverage-example.png."""
    count, repetitions = (QUICK_FRAMES, QUICK_REPETITIONS) if quick else (FRAMES, REPETITIONS)
    plan = QUICK_PLAN if quick else CalibrationPlan()
    config = {
        "quick": quick,
        "frames": count,
        "repetitions": repetitions,
        "seed": 0,
        "split": "test",
        "calibration": {"split": "validation", "frames": plan.frames, "snr_db": list(plan.snr_db)},
    }
    inside = [Case(SPLIT, gradient, snr, count) for gradient in GRADIENTS for snr in TRAIN_SNRS]
    shifted = [Case(SPLIT, gradient, snr, count) for gradient in GRADIENTS for snr in (BETWEEN, BEYOND)]
    drawn = [Case(name, gradient, EXPERIMENT_SNR, repetitions) for name in DRAWN for gradient in GRADIENTS]
    with BenchmarkRun("coverage", output, config) as benchmark:
        shipped = load_bundle(default_bundle_path(METHOD)).intervals
        if shipped is None or shipped.coverage != COVERAGE:
            benchmark.leave_out(
                f"the bundle that ships has no intervals of {100 * COVERAGE:g} %; those fitted here stand in"
            )
        source = SHIPPED if shipped is not None and shipped.coverage == COVERAGE else FITTED
        benchmark.expect(len(NOMINAL) * len(inside) + len([*inside, *shifted, *drawn]))
        for case in [*inside, *shifted, *drawn]:
            _row(benchmark, case, COVERAGE, plan, shipped if source == SHIPPED else None)
        main = list(benchmark.rows)
        for case in inside:
            for nominal in NOMINAL:
                _row(benchmark, case, nominal, plan, None)
        fitted = benchmark.rows[len(main) :]
        blocks = [
            f"Share of the pixels in % whose truth lies inside the {100 * COVERAGE:g} % interval, intervals "
            f"{source}. Vessels are pixels whose truth is above {100 * VESSEL:g} % of their frame's peak. "
            "Widths are relative to the peak of a phantom of peak 1.",
            _table(main, [SPLIT], TRAIN_SNRS),
            verdict(main),
            "## Where coverage is not promised\n\n"
            f"Between and above the calibrated SNRs ({BETWEEN:g}, {BEYOND:g} dB), and drawn phantoms, which "
            f"are no vessels, at {EXPERIMENT_SNR:g} dB.",
            _table(main, [SPLIT, *DRAWN], (BETWEEN, BEYOND, EXPERIMENT_SNR)),
            lost(main),
            "## Other coverages\n\n![Observed against nominal coverage, and by class](coverage.png)",
            "## Examples\n\n![Truth, image, error and width](coverage-example.png)",
            "## All figures\n\n`coverage_A_B`: truth between A and B % of the peak.",
        ]
        pictures = {"coverage.png": _picture(main, fitted), "coverage-example.png": _gallery(main)}
        benchmark.publish("Coverage of the intervals", blocks, pictures, hidden=[EXAMPLE])


def coverage_figures(
    low: NDArray[np.floating], high: NDArray[np.floating], truth: NDArray[np.floating]
) -> dict[str, Any]:
    """Return shares of the truth inside and mean widths of intervals (F, Ny, Nx): all, by class, by side.

    A class that no pixel belongs to has None.
    """
    inside, width = (low <= truth) & (truth <= high), high - low
    relative = truth / truth.max(axis=(1, 2), keepdims=True)

    def mean(values: NDArray[Any], chosen: NDArray[np.bool_]) -> float | None:
        return float(values[chosen].mean()) if chosen.any() else None

    vessel = relative > VESSEL
    figures = {
        "coverage": float(inside.mean()),
        "coverage_vessels": mean(inside, vessel),
        "coverage_outside": mean(inside, ~vessel),
        "width": float(width.mean()),
        "width_vessels": mean(width, vessel),
        "width_outside": mean(width, ~vessel),
        "missed_below": float((truth < low).mean()),
        "missed_above": float((truth > high).mean()),
    }
    for first, last in itertools.pairwise(CLASSES):
        chosen = ((relative > first) | (first == 0)) & (relative <= last)
        figures[f"coverage_{100 * first:g}_{100 * last:g}"] = mean(inside, chosen)
    return figures


def verdict(rows: Sequence[Row]) -> str:
    """Say where the coverage on the test split is as asked, all pixels and vessels, and where not."""
    checked = [row for row in rows if row["phantom"] == SPLIT and row["snr_db"] in TRAIN_SNRS]
    missed = [
        f"{name} at {row['snr_db']:g} dB, {row['test_gradient']} T/m: {100 * row[column]:.1f} %"
        for row in checked
        for name, column in (("all pixels", "coverage"), ("vessels", "coverage_vessels"))
        if abs(row[column] - row["nominal"]) > ASKED
    ]
    asked = f"Asked: within {100 * ASKED:g} % of the nominal coverage, for all pixels and for vessels"
    if not missed:
        return f"{asked}. Met at all {len(checked)} settings."
    return f"{asked}. Not met:\n\n" + "\n".join(f"* {entry}" for entry in missed)


def lost(rows: Sequence[Row]) -> str:
    """Name the shifted settings whose coverage of all pixels or of vessels is below what is asked."""
    found = [
        f"* {row['phantom']}, {row['snr_db']:g} dB, {row['test_gradient']} T/m: "
        f"all pixels {100 * row['coverage']:.1f} %, vessels {100 * row['coverage_vessels']:.1f} %"
        for row in rows
        if not (row["phantom"] == SPLIT and row["snr_db"] in TRAIN_SNRS)
        and min(row["coverage"], row["coverage_vessels"]) < row["nominal"] - ASKED
    ]
    return "Coverage is lost at:\n\n" + "\n".join(found) if found else "Coverage is lost at none of them."


def _row(
    benchmark: BenchmarkRun, case: Case, nominal: float, plan: CalibrationPlan, shipped: Intervals | None
) -> None:
    def measure() -> dict[str, Any]:
        residuals, intensity = _test_residuals(case)
        table = _fitted(plan, nominal) if shipped is None else shipped
        found = [
            table.of_image(image[np.newaxis], snr, scale)
            for image, snr, scale in zip(residuals.images, residuals.snr_db, intensity, strict=True)
        ]
        low, high = (np.stack([getattr(one, side)[0] for one in found]) for side in ("low", "high"))
        truth = case.frames().truth
        figures = coverage_figures(low, high, truth)
        figures["clamped"] = float(np.mean([one.clamped for one in found]))
        example = {
            "truth": truth[0].tolist(),
            "image": (residuals.images[0] * intensity[0]).tolist(),
            "width": (high[0] - low[0]).tolist(),
            "inside": float(((low[0] <= truth[0]) & (truth[0] <= high[0])).mean()),
        }
        return figures | {"n": len(truth)} | ({EXAMPLE: example} if nominal == COVERAGE else {})

    key = {
        "method": METHOD,
        "intervals": FITTED if shipped is None else SHIPPED,
        "nominal": nominal,
        "phantom": case.phantom,
        "snr_db": case.snr,
        "train_gradient": TRAIN_GRADIENT,
        "test_gradient": case.gradient,
    }
    entry = load_bundle(default_bundle_path(METHOD)).manifest.intervals
    identity = {**as_shipped(METHOD).identity, "settings": dict(_solver_settings(case.gradient))}
    if shipped is not None and entry is not None:
        identity["intervals_sha256"] = entry.sha256
    benchmark.row(key, measure, identity)


@cache
def _solver_settings(gradient: float) -> Mapping[str, Any]:
    return as_shipped(METHOD).open(reference_scan(gradient).operators).solver.settings


@lru_cache(maxsize=16)
def _test_residuals(case: Case) -> tuple[Residuals, NDArray[np.float64]]:
    """Reconstruct the frames of a case once for all tables; also their intensities (F,)."""
    frames = case.frames()
    solver = as_shipped(METHOD).open(reference_scan(case.gradient).operators)
    _, done = reconstruct(solver, frames.rows)
    return residuals_of(done, frames.truth), np.array([frame.report.intensity for frame in done])


@cache
def _validation(plan: CalibrationPlan) -> Residuals:
    scan = reference_scan(TRAIN_GRADIENT)
    return validation_residuals(as_shipped(METHOD).open(scan.operators), scan, plan)


@cache
def _fitted(plan: CalibrationPlan, nominal: float) -> Intervals:
    return fit_intervals(_validation(plan), nominal, plan.snr_db)


def _table(rows: Sequence[Row], phantoms: Sequence[str], snrs: Sequence[float]) -> str:
    percent = {
        "all": "coverage",
        "vessels": "coverage_vessels",
        "outside": "coverage_outside",
        **{
            f"{100 * first:g}-{100 * last:g} % of peak": f"coverage_{100 * first:g}_{100 * last:g}"
            for first, last in itertools.pairwise(CLASSES)
        },
    }
    widths = {"mean width, vessels": "width_vessels", "outside": "width_outside"}

    def shown(value: float | None, form: str, factor: float = 1.0) -> str:
        return "-" if value is None else format(factor * value, form)

    lines = [
        {"phantom": row["phantom"], "T/m": row["test_gradient"], "SNR": f"{row['snr_db']:g} dB"}
        | {name: shown(row[column], ".1f", 100) for name, column in percent.items()}
        | {f"{name} ": shown(row[column], ".3f") for name, column in widths.items()}
        | {"beyond the range": f"{100 * row['clamped']:.0f} %"}
        for row in rows
        if row["phantom"] in phantoms and row["snr_db"] in snrs
    ]
    return markdown_table(lines)


def _picture(main: Sequence[Row], fitted: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0.45, 1], [0.45, 1], color="0.6", lw=0.8)
    for gradient, style in zip(GRADIENTS, ("o-", "s--"), strict=True):
        for number, snr in enumerate(TRAIN_SNRS):
            chosen = [row for row in fitted if (row["test_gradient"], row["snr_db"]) == (gradient, snr)]
            left.plot(
                [row["nominal"] for row in chosen],
                [row["coverage"] for row in chosen],
                style, ms=4, lw=1, color=f"C{number}", label=f"{snr:g} dB, {gradient} T/m",
            )  # fmt: skip
    left.set(xlabel="nominal coverage", ylabel="observed, test split")
    left.legend(fontsize=7, ncols=2)
    names = [
        "vessels",
        "outside",
        *(f"{100 * a:g}_{100 * b:g}" for a, b in itertools.pairwise(CLASSES)),
    ]
    for number, snr in enumerate(TRAIN_SNRS):
        for gradient, mark in zip(GRADIENTS, ("o", "s"), strict=True):
            row = next(
                row
                for row in main
                if (row["phantom"], row["test_gradient"], row["snr_db"]) == (SPLIT, gradient, snr)
            )
            found = [row[f"coverage_{name}"] for name in names]
            places = np.arange(len(names)) + 0.12 * (number - 2)
            right.plot(places, np.array(found, float), mark, ms=5, color=f"C{number}", mfc="none")
    right.axhspan(COVERAGE - ASKED, COVERAGE + ASKED, color="0.9")
    right.axhline(COVERAGE, color="0.6", lw=0.8)
    right.set_xticks(
        range(len(names)), [name.replace("_", "-") + (" %" if "_" in name else "") for name in names]
    )
    right.set(xlabel="truth, relative to the peak", ylabel=f"observed at {100 * COVERAGE:g} %", ylim=(0.7, 1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure


def _gallery(main: Sequence[Row]) -> Figure:
    cases = [(SPLIT, snr) for snr in EXAMPLE_SNRS] + [(name, EXPERIMENT_SNR) for name in DRAWN]
    rows = [
        next(
            row
            for row in main
            if (row["phantom"], row["snr_db"], row["test_gradient"]) == (phantom, snr, TRAIN_GRADIENT)
        )
        for phantom, snr in cases
    ]
    examples = [row[EXAMPLE] for row in rows]
    truth, image, width = (
        [np.array(example[name], np.float32) for example in examples] for name in ("truth", "image", "width")
    )
    error = [np.abs(one - other) for one, other in zip(image, truth, strict=True)]
    nothing = [""] * len(rows)
    peak, widest = max(float(one.max()) for one in truth), max(float(one.max()) for one in width)
    grid = reference_scan(TRAIN_GRADIENT).operators.grid
    columns = [
        Column("truth", truth, nothing, (0, peak)),
        Column("image", image, nothing, (0, peak)),
        Column("absolute error", error, nothing, (0, widest / 2), "viridis"),
        Column(
            f"width of {100 * COVERAGE:g} % interval",
            width,
            [f"{100 * example['inside']:.0f} % inside" for example in examples],
            (0, widest),
            "viridis",
        ),
    ]
    labels = [f"{phantom}, {snr:g} dB" for phantom, snr in cases]
    return draw_matrix(columns, labels, grid.field_of_view[1] / grid.field_of_view[0])
