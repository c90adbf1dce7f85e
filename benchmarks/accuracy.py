"""Image quality of all methods on the test split (the paper's Tables I and II), same and other gradient.

Data come from A_meas, reconstruction uses A_meas U D, one noise level per SNR (`engine.tuning.emulation`).
Networks were trained and weights tuned at 0.5 T/m; at 0.6 T/m only the operators change.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.contestants.contestant import (
    HAND_CRAFTED,
    Contestant,
    before_equilibrium_training,
    contestants,
    trained_alike,
)
from benchmarks.contestants.deep_image_prior import METHOD, TOO_SLOW, untrained
from benchmarks.contestants.model_shelf import ModelShelf
from benchmarks.contestants.paper import MAY_TIE, ORDER, ORDER_SNRS, TIE, paper_figure
from benchmarks.harness.benchmark_run import BenchmarkRun
from benchmarks.harness.quality import effort, image_quality, reconstruct
from benchmarks.harness.record import markdown_table
from benchmarks.scans.scans import GRADIENTS, SNRS, TRAIN_GRADIENT, frames_of_test_split, reference_scan

FRAMES = 512
QUICK_FRAMES = 6

SLOW_FRAMES = 8
"""The first so many frames for the deep image prior."""

DEQ = "deq"
OPPONENTS = (
    "pp-mpi",
    "deq-ball, trained alike",
    "deq, fast",
    "deq, trained at this SNR",
    "deq, pre-trained only",
    "deq, authors' weights",
)
"""With whom deq is compared, besides the best hand-crafted method."""

FIGURES = ("psnr_mean", "ssim_mean", "ssim_windowed_mean")
MARGIN_COLUMNS = ("tested at T/m", "deq over", "pSNR / dB", "SSIM / %", "windowed SSIM / %")
MARGINS_TEXT = (
    "Differences of the means over all SNRs of the table. SSIM ends at 100 %: where an opponent is above "
    "93 %, no method can be 7 % better."
)

Row = Mapping[str, Any]


def run(quick: bool, output: Path) -> None:
    """Measure every method and write accuracy.json, accuracy.md and accuracy.png."""
    count = QUICK_FRAMES if quick else FRAMES
    config = {"quick": quick, "frames": count, "slow_frames": SLOW_FRAMES, "seed": 0, "split": "test"}
    shelf = ModelShelf()
    with BenchmarkRun("accuracy", output, config) as benchmark:
        more = [trained_alike(shelf), before_equilibrium_training(shelf)]
        if quick:
            benchmark.leave_out(TOO_SLOW)
        else:
            more.append(untrained())
        field = {snr: [*contestants(snr, shelf, benchmark.leave_out), *more] for snr in SNRS}
        benchmark.expect(len(GRADIENTS) * sum(map(len, field.values())))
        for gradient in GRADIENTS:
            for snr in SNRS:
                for contestant in field[snr]:
                    _row(benchmark, contestant, count, snr, gradient)
        rows = benchmark.rows
        blocks = [
            "Mean pSNR in dB (Eq. 37) / SSIM in % (Eq. 38, over the whole image). In brackets the paper's, "
            "on its own scanner and phantoms; its SSIM has other constants. Compare the order, not the "
            "level. `ssim_windowed_mean` below is SSIM as usually computed.",
            *(block for gradient in GRADIENTS for block in _beside_the_paper(rows, gradient)),
            "## The paper's order\n\n" + _expected_order() + "\n\n" + "\n".join(order_verdicts(rows)),
            "## Margins of deq\n\n" + MARGINS_TEXT,
            markdown_table(margins(rows), MARGIN_COLUMNS),
            "![pSNR of the methods](accuracy.png)",
            "## All figures\n\n`ms`: per frame on one core, of frames solved together. The deep image prior "
            f"(dip) has {SLOW_FRAMES} frames, the first of the others'.",
        ]
        benchmark.publish("Image quality on the test split", blocks, {"accuracy.png": _picture(rows)})


def _row(benchmark: BenchmarkRun, contestant: Contestant, count: int, snr: float, gradient: float) -> None:
    def measure() -> dict[str, Any]:
        frames = frames_of_test_split(gradient, count, snr)
        used = SLOW_FRAMES if contestant.method == METHOD else count
        solver = contestant.open(reference_scan(gradient).operators)
        images, done = reconstruct(solver, frames.rows[:used])
        paper = paper_figure(contestant.name, snr, gradient)
        return (
            image_quality(images, frames.truth[:used])
            | effort(done)
            | {"paper_psnr": paper and paper.psnr, "paper_ssim": paper and paper.ssim}
        )

    key = {
        "method": contestant.name,
        "snr_db": snr,
        "train_gradient": TRAIN_GRADIENT,
        "test_gradient": gradient,
    }
    benchmark.row(key, measure, contestant.identity)


def _beside_the_paper(rows: Sequence[Row], gradient: float) -> list[str]:
    """Return a heading and a table with one line per method and one column per SNR."""
    lines: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["test_gradient"] == gradient:
            ours = f"{row['psnr_mean']:.1f} / {row['ssim_mean']:.1f}"
            theirs = (
                "" if row["paper_psnr"] is None else f" ({row['paper_psnr']:.1f} / {row['paper_ssim']:.1f})"
            )
            lines.setdefault(row["method"], {})[f"{row['snr_db']:g} dB"] = ours + theirs
    columns = ["method", *(f"{snr:g} dB" for snr in SNRS)]
    number = "I" if gradient == TRAIN_GRADIENT else "II"
    table = markdown_table([{"method": method, **cells} for method, cells in lines.items()], columns)
    return [f"## Tested at {gradient} T/m (Table {number})", table]


def _expected_order() -> str:
    ranking = " < ".join(ORDER).replace(" < ".join(MAY_TIE), " <= ".join(MAY_TIE))
    return f"By pSNR at 15 and 25 dB: {ranking} (to {TIE:g} dB)."


def order_verdicts(rows: Sequence[Row]) -> list[str]:
    """Say for each SNR and gradient whether the paper's order holds, and where not.

    Parameters
    ----------
    rows : sequence of mapping
        With method, snr_db, test_gradient and psnr_mean.

    Returns
    -------
    list of str
        One Markdown list entry per SNR of `ORDER_SNRS` and gradient that was measured.
    """
    verdicts = []
    settings = dict.fromkeys((row["test_gradient"], row["snr_db"]) for row in rows)
    for gradient, snr in settings:
        if snr not in ORDER_SNRS:
            continue
        found = {
            row["method"]: row["psnr_mean"]
            for row in rows
            if (row["test_gradient"], row["snr_db"]) == (gradient, snr)
        }
        missing = [method for method in ORDER if method not in found]
        there = [method for method in ORDER if method in found]
        broken = [
            f"{worse} ({found[worse]:.2f} dB) is above {better} ({found[better]:.2f} dB)"
            for index, worse in enumerate(there)
            for better in there[index + 1 :]
            if found[worse] > found[better] + (TIE if (worse, better) == MAY_TIE else 0.0)
        ]
        verdict = "does not hold: " + "; ".join(broken) if broken else "holds"
        absent = f" ({', '.join(missing)} not measured)" if missing else ""
        verdicts.append(f"* {snr:g} dB, {gradient} T/m: {verdict}{absent}.")
    return verdicts


def margins(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Compare deq with its opponents, by the means over the SNRs of the table.

    Parameters
    ----------
    rows : sequence of mapping
        With method, snr_db, test_gradient, psnr_mean, ssim_mean and ssim_windowed_mean.

    Returns
    -------
    list of dict
        One per opponent and gradient at which both were measured at all SNRs, with `MARGIN_COLUMNS`.
    """
    found = []
    for gradient in dict.fromkeys(row["test_gradient"] for row in rows):
        by_method: dict[str, dict[float, Row]] = {}
        for row in rows:
            if row["test_gradient"] == gradient:
                by_method.setdefault(row["method"], {})[row["snr_db"]] = row
        means = {method: _means(by_snr) for method, by_snr in by_method.items() if len(by_snr) == len(SNRS)}
        if DEQ not in means:
            continue
        hand_crafted = [method for method in HAND_CRAFTED if method in means]
        best = max(hand_crafted, key=lambda method: means[method]["psnr_mean"], default=None)
        opponents = [(f"best hand-crafted ({best})", best)] * (best is not None) + [
            (method, method) for method in OPPONENTS if method in means
        ]
        for name, method in opponents:
            gains = {key: means[DEQ][key] - means[method][key] for key in FIGURES}  # type: ignore[index]
            values = (gradient, name, *(f"{gain:+.2f}" for gain in gains.values()))
            found.append(dict(zip(MARGIN_COLUMNS, values, strict=True)))
    return found


def _means(by_snr: Mapping[float, Row]) -> dict[str, float]:
    return {key: float(np.mean([row[key] for row in by_snr.values()])) for key in FIGURES}


def _picture(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(11, 5), layout="constrained")
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for axes, gradient in zip(figure.subplots(1, 2, sharey=True), GRADIENTS, strict=True):
        for number, snr in enumerate(SNRS):
            chosen = [row for row in rows if (row["test_gradient"], row["snr_db"]) == (gradient, snr)]
            colour = f"C{number}"
            heights = np.array([methods.index(row["method"]) for row in chosen])
            axes.plot([row["psnr_mean"] for row in chosen], heights, "o", color=colour, label=f"{snr:g} dB")
            known = [row["paper_psnr"] is not None for row in chosen]
            paper = [row["paper_psnr"] for row in chosen if row["paper_psnr"] is not None]
            label = "paper, its own data" if snr == SNRS[-1] else None
            axes.plot(paper, heights[known], "D", mfc="none", color=colour, ms=7, label=label)
        axes.set(title=f"tested at {gradient} T/m", xlabel="mean pSNR in dB", yticks=range(len(methods)))
        axes.set_yticklabels(methods)
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure
