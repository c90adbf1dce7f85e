"""One noise-conditioned model for 5 to 45 dB against models for one SNR each, and against unconditioned ones.

All test frames are the same, so the models are compared frame by frame.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.contestants import specialist_models
from benchmarks.contestants.contestant import Contestant, as_shipped, trained_at
from benchmarks.contestants.model_shelf import MissingModelError, ModelShelf
from benchmarks.contestants.run_contestants import from_run
from benchmarks.harness.benchmark_run import BenchmarkRun
from benchmarks.harness.quality import effort, image_quality, reconstruct
from benchmarks.harness.record import markdown_table
from benchmarks.scans.scans import TRAIN_GRADIENT, TRAIN_SNRS, frames_of_test_split, reference_scan
from engine.mpi.metrics import psnr_db

FRAMES, QUICK_FRAMES = 128, 4

REFERENCE, SPECIALIST, UNCONDITIONED = "reference", "specialist", "unconditioned"
"""Kinds of models: the shipped one; its networks trained further at one SNR; small ones trained at one SNR
from the start."""

LARGEST_MISMATCH = 20.0
"""dB between training and test, up to which models for one SNR are tested."""

CLEAR = 2.0
"""Standard errors from which on a difference counts as one."""

EACH = "psnr_each"
"""Column of the kept rows with the pSNR of every frame; it is not published."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Model:
    """A model, its kind, and the SNR in dB it was trained at; None for the reference, trained at a range."""

    kind: str
    train_snr: float | None
    contestant: Contestant

    @property
    def label(self) -> str:
        """What tables and pictures call it."""
        return _label(self.kind, self.train_snr)

    def is_tested_at(self, snr: float) -> bool:
        """Whether the SNR in dB is near enough to that of its training."""
        return self.train_snr is None or abs(self.train_snr - snr) <= LARGEST_MISMATCH


def run(quick: bool, output: Path) -> None:
    """Measure every model that is there; write noise_levels.json, noise_levels.md and noise_levels.png."""
    count = QUICK_FRAMES if quick else FRAMES
    config = {"quick": quick, "frames": count, "seed": 0, "split": "test"}
    with BenchmarkRun("noise_levels", output, config) as benchmark:
        reference = Model(REFERENCE, None, as_shipped("deq"))
        others = list(_others(ModelShelf(), benchmark))
        trials = [(snr, model) for snr in TRAIN_SNRS for model in others if model.is_tested_at(snr)]
        benchmark.expect(len(TRAIN_SNRS) + len(trials))
        measured = {snr: _row(benchmark, reference, snr, count) for snr in TRAIN_SNRS}
        for snr, model in trials:
            _row(benchmark, model, snr, count, against=(reference, measured[snr]))
        rows = benchmark.rows
        blocks = [
            f"Mean pSNR in dB over {count} frames of the test split per SNR. `{REFERENCE}` is the model that "
            f"ships, one for all. A `{SPECIALIST}` is the same pair of networks trained further at one SNR "
            f"(`benchmarks/contestants/specialist_models.py`), an `{UNCONDITIONED}` model one with 12 "
            "features that does "
            "not see the noise level, trained at one SNR (`benchmarks/contestants/ablation_models.py`).",
            "## Every model where it was trained",
            "In brackets: how far the reference is ahead, mean and standard error of the differences of the "
            "single frames.",
            markdown_table(beside_the_reference(rows)),
            verdict(rows),
            "## Elsewhere",
            f"Models for one SNR up to {LARGEST_MISMATCH:g} dB from it.",
            markdown_table(_everywhere(rows)),
            "![pSNR against the SNR of the test, absolute and relative to the reference](noise_levels.png)",
            "## All figures\n\n`ahead_db`, `ahead_error_db`: mean pSNR of the reference less that of the "
            "model, and its standard error.",
        ]
        pictures = {"noise_levels.png": _picture(rows)}
        benchmark.publish("One model for all noise levels", blocks, pictures, hidden=[EACH])


def _others(shelf: ModelShelf, benchmark: BenchmarkRun) -> Iterator[Model]:
    for snr in TRAIN_SNRS:
        name = specialist_models.model_name(snr)
        remedy = f"train it with python -m benchmarks.contestants.specialist_models {name}"
        folder = specialist_models.MODELS / name
        makers = (
            (SPECIALIST, partial(from_run, _label(SPECIALIST, snr), folder, remedy, shelf)),
            (UNCONDITIONED, partial(trained_at, "deq", snr, shelf, _label(UNCONDITIONED, snr))),
        )
        for kind, make in makers:
            try:
                yield Model(kind, snr, make())
            except MissingModelError as error:
                benchmark.leave_out(str(error))


def _label(kind: str, train_snr: float | None) -> str:
    return kind if train_snr is None else f"{kind}-{train_snr:g}"


def _row(
    benchmark: BenchmarkRun, model: Model, snr: float, count: int, against: tuple[Model, Row] | None = None
) -> Row:
    def measure() -> dict[str, Any]:
        frames = frames_of_test_split(TRAIN_GRADIENT, count, snr)
        images, done = reconstruct(
            model.contestant.open(reference_scan(TRAIN_GRADIENT).operators), frames.rows
        )
        each = psnr_db(images, frames.truth)
        ahead = {} if against is None else ahead_of(each, np.asarray(against[1][EACH]))
        return image_quality(images, frames.truth) | effort(done) | ahead | {EACH: each.tolist()}

    key = {
        "method": model.label,
        "kind": model.kind,
        "snr_db": snr,
        "train_snr_db": model.train_snr,
        "train_gradient": TRAIN_GRADIENT,
        "test_gradient": TRAIN_GRADIENT,
    }
    rival = {} if against is None else {"against": dict(against[0].contestant.identity)}
    return benchmark.row(key, measure, {**model.contestant.identity, **rival})


def ahead_of(psnr: np.ndarray, reference: np.ndarray) -> dict[str, float | None]:
    """Return how far the reference is ahead on the same frames, and the standard error of that.

    Parameters
    ----------
    psnr, reference : ndarray of float, shape (F,)
        pSNR in dB of every frame.

    Returns
    -------
    dict
        `ahead_db`, and `ahead_error_db`, None of a single frame.
    """
    ahead = reference - psnr
    error = float(ahead.std(ddof=1) / np.sqrt(len(ahead))) if len(ahead) > 1 else None
    return {"ahead_db": float(ahead.mean()), "ahead_error_db": error}


def beside_the_reference(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Return one line per SNR of the test: the reference, and every kind of model trained there.

    Parameters
    ----------
    rows : sequence of mapping
        With kind, snr_db, train_snr_db, psnr_mean, ahead_db and ahead_error_db.
    """
    kinds = dict.fromkeys(row["kind"] for row in rows)
    lines = []
    for snr in dict.fromkeys(row["snr_db"] for row in rows):
        matched = {
            row["kind"]: row for row in rows if row["snr_db"] == snr and row["train_snr_db"] in (None, snr)
        }
        shown = {kind: _shown(matched[kind]) if kind in matched else "-" for kind in kinds}
        lines.append({"SNR": f"{snr:g} dB"} | shown)
    return lines


def _shown(row: Row) -> str:
    psnr = f"{row['psnr_mean']:.2f}"
    if row.get("ahead_db") is None:
        return psnr
    error = row["ahead_error_db"]
    return f"{psnr} ({row['ahead_db']:+.2f}" + (")" if error is None else f" ± {error:.2f})")


def verdict(rows: Sequence[Row]) -> str:
    """Say at which SNRs the reference is clearly behind or ahead of the specialist trained there.

    Parameters
    ----------
    rows : sequence of mapping
        As for `beside_the_reference`.
    """
    matched = [row for row in rows if row["kind"] == SPECIALIST and row["train_snr_db"] == row["snr_db"]]
    if not matched:
        return "No specialist was measured where it was trained."
    sides: dict[str, list[str]] = {"behind": [], "ahead": [], "level": []}
    for row in matched:
        ahead, error = row["ahead_db"], row["ahead_error_db"]
        is_clear = error is not None and abs(ahead) > CLEAR * error
        side = ("ahead" if ahead > 0 else "behind") if is_clear else "level"
        size = f" ({abs(ahead):.2f} dB)" if is_clear else ""
        sides[side].append(f"{row['snr_db']:g} dB{size}")
    said = [
        f"{text} the specialist at {', '.join(sides[side])}"
        for side, text in (
            ("behind", "behind"),
            ("ahead", "ahead of"),
            ("level", f"within {CLEAR:g} standard errors of"),
        )
        if sides[side]
    ]
    return f"The reference is {'; '.join(said)}."


def _everywhere(rows: Sequence[Row]) -> list[dict[str, str]]:
    snrs = list(dict.fromkeys(row["snr_db"] for row in rows))
    lines = []
    for model, course in _courses(rows).items():
        psnr = {row["snr_db"]: f"{row['psnr_mean']:.2f}" for row in course}
        lines.append({"model": model} | {f"{snr:g} dB": psnr.get(snr, "-") for snr in snrs})
    return lines


def _courses(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each model by SNR: the reference, each kind by the SNR of its training."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    ordered = sorted(
        rows, key=lambda row: (kinds.index(row["kind"]), row["train_snr_db"] or 0.0, row["snr_db"])
    )
    courses: dict[str, list[Row]] = {}
    for row in ordered:
        courses.setdefault(row["method"], []).append(row)
    return courses


def _picture(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    absolute, relative = figure.subplots(1, 2)
    styles = {SPECIALIST: ("o", "-"), UNCONDITIONED: ("s", "--")}
    for model, course in _courses(rows).items():
        kind, train = course[0]["kind"], course[0]["train_snr_db"]
        colour = "k" if train is None else f"C{TRAIN_SNRS.index(train)}"
        snr = [row["snr_db"] for row in course]
        is_reference = kind == REFERENCE
        marker, line = styles.get(kind, ("o", "-"))
        style = {"color": colour, "marker": marker, "ls": line, "ms": 4, "label": model}
        absolute.plot(snr, [row["psnr_mean"] for row in course], lw=2 if is_reference else 1, **style)
        if is_reference:
            relative.axhline(0.0, color="k", lw=2)
            continue
        errors = [CLEAR * (row["ahead_error_db"] or 0.0) for row in course]
        relative.errorbar(snr, [-row["ahead_db"] for row in course], errors, lw=1, capsize=2, **style)
    absolute.set(xlabel="SNR of the test in dB", ylabel="mean pSNR in dB")
    relative.set(
        xlabel="SNR of the test in dB",
        ylabel="mean pSNR in dB above the reference's",
        title=f"bars: {CLEAR:g} standard errors",
    )
    for axes in (absolute, relative):
        axes.grid(alpha=0.3)
    handles, labels = absolute.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    return figure
