"""What the parts of DEQ-MPI are worth (the paper's Fig. 3): the method without each of them, side by side.

Every model of `benchmarks.contestants.ablation_models` is trained at one measurement SNR from the same
pre-trained networks, for about the same time on one core, and tested at 35 dB and at its own SNR.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.contestants.ablation_models import METHODS
from benchmarks.contestants.contestant import Contestant, authors_deq, trained_at
from benchmarks.contestants.model_shelf import (
    AUTHORS_LEVELS,
    AUTHORS_SNR_OFFSET,
    MissingModelError,
    ModelShelf,
)
from benchmarks.harness.benchmark_run import BenchmarkRun
from benchmarks.harness.quality import effort, image_quality, reconstruct
from benchmarks.harness.record import markdown_table
from benchmarks.scans.scans import TRAIN_GRADIENT, TRAIN_SNRS, frames_of_test_split, reference_scan
from export.errors import ExportError, ParityError

FRAMES = 512
QUICK_FRAMES = 16

QUICK_TRAIN_SNRS = (15.0, 35.0)
"""Training SNRs in dB of the models that are measured quickly: making a bundle of each takes seconds."""

TEST_SNR = 35.0
"""SNR in dB of the paper's test."""

PAPER_GAINS: Mapping[str, float] = MappingProxyType({"end-to-end": 2.1, "unrolled": 3.4, "deq-ball": 0.9})
"""pSNR in dB by which the paper's DEQ-MPI beats each ablation, averaged over the training SNRs."""

AUTHORS = "deq, authors' weights"

COLUMNS = ("method", *(f"{snr:g} dB" for snr in TRAIN_SNRS))

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Ablation:
    """A method trained at one SNR in dB."""

    method: str
    train_snr: float
    contestant: Contestant

    @property
    def test_snrs(self) -> list[float]:
        """SNRs in dB to test at."""
        return list(dict.fromkeys((TEST_SNR, self.train_snr)))


def run(quick: bool, output: Path) -> None:
    """Measure every model that is there and write ablation.json, ablation.md and ablation.png."""
    count = QUICK_FRAMES if quick else FRAMES
    config = {"quick": quick, "frames": count, "seed": 0, "split": "test"}
    with BenchmarkRun("ablation", output, config) as benchmark:
        models = _models(benchmark, QUICK_TRAIN_SNRS if quick else TRAIN_SNRS)
        benchmark.expect(sum(len(model.test_snrs) for model in models))
        for model in models:
            for snr in model.test_snrs:
                _row(benchmark, model, count, snr)
        rows = benchmark.rows
        blocks = [
            "Mean pSNR in dB (Eq. 37) by training SNR. The models share their pre-trained start, their data "
            "and about 4 minutes of training on one core each; see "
            "`benchmarks/contestants/ablation_models.py`. "
            f"`{AUTHORS}` were trained on the authors' scanner.",
            f"## Tested at {TEST_SNR:g} dB (Fig. 3)",
            markdown_table(by_training_snr(rows, TEST_SNR), COLUMNS),
            f"## Gain of deq in dB, tested at {TEST_SNR:g} dB",
            "Average over the training SNRs at which both were measured. The paper gives the averages of its "
            "Fig. 3, and that deq-ball is ahead at 5 dB only.",
            markdown_table(gains(rows), ("over", "gain", "paper", "training SNRs")),
            "## Tested at the training SNR",
            markdown_table(by_training_snr(rows, None), COLUMNS),
            "![pSNR against the training SNR](ablation.png)",
            "## All figures\n\n`ms`: per frame on one core, of frames solved together.",
        ]
        benchmark.publish("Ablation of the parts of DEQ-MPI", blocks, {"ablation.png": _picture(rows)})


def _models(benchmark: BenchmarkRun, train_snrs: Sequence[float]) -> list[Ablation]:
    shelf = ModelShelf()
    found = []
    for snr in train_snrs:
        makers: dict[str, Callable[[], Contestant]]
        makers = {method: partial(trained_at, method, snr, shelf, method) for method in METHODS}
        if snr - AUTHORS_SNR_OFFSET in AUTHORS_LEVELS:
            makers[AUTHORS] = partial(authors_deq, snr, shelf, AUTHORS)
        for method, make in makers.items():
            try:
                found.append(Ablation(method, snr, make()))
            except (MissingModelError, ExportError, ParityError) as error:
                benchmark.leave_out(f"{method}, trained at {snr:g} dB: {error}")
    if not found:
        raise MissingModelError(
            "no model of the ablation is here; expected some in models/ablation: train them with "
            "python -m benchmarks.contestants.ablation_models"
        )
    return found


def _row(benchmark: BenchmarkRun, model: Ablation, count: int, snr: float) -> None:
    def measure() -> dict[str, Any]:
        frames = frames_of_test_split(TRAIN_GRADIENT, count, snr)
        solver = model.contestant.open(reference_scan(TRAIN_GRADIENT).operators)
        images, done = reconstruct(solver, frames.rows)
        return image_quality(images, frames.truth) | effort(done)

    key = {
        "method": model.method,
        "train_snr_db": model.train_snr,
        "snr_db": snr,
        "train_gradient": TRAIN_GRADIENT,
        "test_gradient": TRAIN_GRADIENT,
    }
    benchmark.row(key, measure, model.contestant.identity)


def curve(rows: Sequence[Row], method: str, test_snr: float | None) -> dict[float, float]:
    """Return a method's mean pSNR by its training SNR, tested at one SNR or (None) at the training SNR."""
    return {
        row["train_snr_db"]: row["psnr_mean"]
        for row in rows
        if row["method"] == method
        and row["snr_db"] == (row["train_snr_db"] if test_snr is None else test_snr)
    }


def gains(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return by how many dB deq beats each ablation at `TEST_SNR`, beside the paper's figures.

    Parameters
    ----------
    rows : sequence of mapping
        With method, train_snr_db, snr_db and psnr_mean.

    Returns
    -------
    list of dict
        One row per ablation that was measured at a training SNR of deq.
    """
    ours = curve(rows, "deq", TEST_SNR)
    table = []
    for method, paper in PAPER_GAINS.items():
        theirs = curve(rows, method, TEST_SNR)
        common = sorted(ours.keys() & theirs.keys())
        if common:
            differences = [ours[snr] - theirs[snr] for snr in common]
            table.append(
                {
                    "over": method,
                    "gain": sum(differences) / len(differences),
                    "paper": paper,
                    "training SNRs": ", ".join(f"{snr:g}" for snr in common) + " dB",
                }
            )
    return table


def by_training_snr(rows: Sequence[Row], test_snr: float | None) -> list[dict[str, Any]]:
    """Return one line per method and one column per training SNR."""
    table = []
    for method in (*METHODS, AUTHORS):
        values = curve(rows, method, test_snr)
        if values:
            cells = {f"{snr:g} dB": values.get(snr) for snr in TRAIN_SNRS}
            table.append({"method": method, **cells})
    return table


def _picture(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw(left, rows, TEST_SNR, f"tested at {TEST_SNR:g} dB (Fig. 3)")
    _draw(right, rows, None, "tested at the training SNR")
    left.set_ylabel("mean pSNR in dB")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def _draw(axes: Axes, rows: Sequence[Row], test_snr: float | None, title: str) -> None:
    for number, method in enumerate((*METHODS, AUTHORS)):
        values = curve(rows, method, test_snr)
        snrs = sorted(values)
        style = "o:" if method == AUTHORS else "o-"
        axes.plot(snrs, [values[snr] for snr in snrs], style, color=f"C{number}", label=method)
    axes.set(title=title, xlabel="training SNR in dB", xticks=TRAIN_SNRS)
    axes.grid(alpha=0.3)
