"""Models trained at one SNR on data of another (the paper's Fig. 7): 20 dB, both gradients.

The paper shows a measured phantom, two parallel tubes, at about 20 dB. Here it is drawn and measured with the
simulated scanner, and the test split adds figures.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.contestants.contestant import Contestant, as_shipped, authors_deq, trained_at
from benchmarks.contestants.model_shelf import (
    AUTHORS_LEVELS,
    AUTHORS_SNR_OFFSET,
    MissingModelError,
    ModelShelf,
)
from benchmarks.harness.benchmark_run import BenchmarkRun
from benchmarks.harness.quality import effort, image_quality, reconstruct
from benchmarks.harness.record import markdown_table
from benchmarks.pages.image_matrix import Column, comparison, draw_matrix
from benchmarks.scans.drawn_phantoms import two_tubes
from benchmarks.scans.scans import (
    EXPERIMENT_SNR,
    GRADIENTS,
    TRAIN_GRADIENT,
    TRAIN_SNRS,
    frames_of_image,
    frames_of_test_split,
    reference_scan,
)
from engine.tuning.emulation import Frames

FRAMES, QUICK_FRAMES = 128, 8
REPETITIONS, QUICK_REPETITIONS = 16, 2
"""Measurements of the tubes, each with noise of its own; the picture shows the first."""

SPLIT, TUBES = "test split", "two tubes"

OURS, SHIPPED, AUTHORS = "deq, trained at one SNR", "deq", "deq, authors' weights"

ERROR_LIMIT = 0.3
"""Largest error with a colour of its own, relative to the tubes' concentration."""

IMAGE = "image"
"""Column of the kept rows that holds the image; it is not published."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Model:
    """A model and the SNR in dB it was trained at; None for the shipped one, trained at a range."""

    train_snr: float | None
    contestant: Contestant

    @property
    def label(self) -> str:
        """What a picture calls it."""
        if self.train_snr is None:
            return "as shipped"
        return ("authors', " if self.contestant.name == AUTHORS else "trained at ") + f"{self.train_snr:g} dB"


def run(quick: bool, output: Path) -> None:
    """Measure every model; write snr_mismatch.json, .md, .png and snr_mismatch-tubes.png."""
    frames, repetitions = (QUICK_FRAMES, QUICK_REPETITIONS) if quick else (FRAMES, REPETITIONS)
    config = {"quick": quick, "frames": frames, "repetitions": repetitions, "seed": 0, "split": "test"}
    with BenchmarkRun("snr_mismatch", output, config) as benchmark:
        models = list(_models(ModelShelf(), benchmark))
        benchmark.expect(2 * len(GRADIENTS) * len(models))
        for phantom, count in ((SPLIT, frames), (TUBES, repetitions)):
            for gradient in GRADIENTS:
                for model in models:
                    _row(benchmark, model, phantom, gradient, count)
        rows = benchmark.rows
        blocks = [
            f"All data have an SNR of {EXPERIMENT_SNR:g} dB. The models were trained at {TRAIN_GRADIENT} T/m "
            "and at the SNR that the table states, the shipped one at a range of SNRs. "
            f"Mean pSNR in dB over {frames} frames of the test split, and over {repetitions} measurements of "
            "two parallel tubes (20 mm long, radius 2 mm, 4 mm apart).",
            _table(rows, models),
            "![pSNR against the training SNR](snr_mismatch.png)",
            "## Two tubes (Fig. 7)\n\nThe first measurement of each below the mean pSNR of all.\n\n"
            "![Two tubes by training SNR](snr_mismatch-tubes.png)",
            "## All figures",
        ]
        pictures = {"snr_mismatch.png": _curves(rows), "snr_mismatch-tubes.png": _gallery(rows, models)}
        benchmark.publish("Training and test at different SNRs", blocks, pictures, hidden=[IMAGE])


def _models(shelf: ModelShelf, benchmark: BenchmarkRun) -> Iterator[Model]:
    for snr in TRAIN_SNRS:
        try:
            yield Model(snr, trained_at("deq", snr, shelf, OURS))
        except MissingModelError as error:
            benchmark.leave_out(str(error))
    yield Model(None, as_shipped("deq"))
    for level in AUTHORS_LEVELS:
        snr = level + AUTHORS_SNR_OFFSET
        try:
            yield Model(snr, authors_deq(snr, shelf, AUTHORS))
        except MissingModelError as error:
            benchmark.leave_out(str(error))


def _frames(phantom: str, gradient: float, count: int) -> Frames:
    if phantom == SPLIT:
        return frames_of_test_split(gradient, count, EXPERIMENT_SNR)
    return frames_of_image(
        gradient, two_tubes(reference_scan(gradient).operators.grid), count, EXPERIMENT_SNR
    )


def _row(benchmark: BenchmarkRun, model: Model, phantom: str, gradient: float, count: int) -> None:
    def measure() -> dict[str, Any]:
        frames = _frames(phantom, gradient, count)
        images, done = reconstruct(model.contestant.open(reference_scan(gradient).operators), frames.rows)
        shown = {IMAGE: images[0].tolist()} if phantom == TUBES else {}
        return image_quality(images, frames.truth) | effort(done) | shown

    key = {
        "method": model.contestant.name,
        "snr_db": EXPERIMENT_SNR,
        "train_snr_db": model.train_snr,
        "train_gradient": TRAIN_GRADIENT,
        "test_gradient": gradient,
        "phantom": phantom,
    }
    benchmark.row(key, measure, model.contestant.identity)


def _find(rows: Sequence[Row], model: Model, phantom: str, gradient: float) -> Row:
    wanted = (model.contestant.name, model.train_snr, phantom, gradient)
    return next(
        row
        for row in rows
        if (row["method"], row["train_snr_db"], row["phantom"], row["test_gradient"]) == wanted
    )


def _table(rows: Sequence[Row], models: Sequence[Model]) -> str:
    lines = [
        {"model": model.label}
        | {
            f"{phantom}, {gradient} T/m": f"{_find(rows, model, phantom, gradient)['psnr_mean']:.1f}"
            for phantom in (SPLIT, TUBES)
            for gradient in GRADIENTS
        }
        for model in models
    ]
    return markdown_table(lines)


def _curves(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, phantom in zip(figure.subplots(1, 2), (SPLIT, TUBES), strict=True):
        for gradient, style in zip(GRADIENTS, ("o-", "s--"), strict=True):
            for method, colour in ((OURS, "C0"), (AUTHORS, "C1"), (SHIPPED, "C2")):
                chosen = [
                    row
                    for row in rows
                    if (row["method"], row["phantom"], row["test_gradient"]) == (method, phantom, gradient)
                ]
                if not chosen:
                    continue
                label = f"{'deq, as shipped' if method == SHIPPED else method}, {gradient} T/m"
                if method == SHIPPED:
                    level = chosen[0]["psnr_mean"]
                    axes.axhline(level, color=colour, ls="-" if style == "o-" else "--", label=label)
                else:
                    snrs = [row["train_snr_db"] for row in chosen]
                    axes.plot(snrs, [row["psnr_mean"] for row in chosen], style, color=colour, label=label)
        axes.axvline(EXPERIMENT_SNR, color="0.6", lw=0.8)
        axes.set(title=phantom, xlabel="training SNR in dB")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel(f"mean pSNR in dB, data of {EXPERIMENT_SNR:g} dB")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _gallery(rows: Sequence[Row], models: Sequence[Model]) -> Figure:
    columns: list[Column] = []
    for gradient in GRADIENTS:
        grid = reference_scan(gradient).operators.grid
        found = [_find(rows, model, TUBES, gradient) for model in models]
        images = [np.array(row[IMAGE], np.float32) for row in found]
        captions = [f"{row['psnr_mean']:.1f} dB" for row in found]
        columns += comparison(f"{gradient} T/m", two_tubes(grid), images, captions, ERROR_LIMIT)
    return draw_matrix(
        columns, ["drawn", *(model.label for model in models)], grid.field_of_view[1] / grid.field_of_view[0]
    )
