"""What the start of the two networks is worth (the ablation of Sec. V-A): DEQ-MPI trained from other starts.

Trained and tested at 35 dB; the equilibrium training is the same for all
(`benchmarks.contestants.ablation_models`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.contestants.ablation_models import INITIALISATION_SNR, MODELS, model_name
from benchmarks.contestants.contestant import Contestant
from benchmarks.contestants.model_shelf import MissingModelError, ModelShelf, ShelfBundle
from benchmarks.harness.benchmark_run import BenchmarkRun
from benchmarks.harness.quality import effort, image_quality, reconstruct
from benchmarks.harness.record import markdown_table
from benchmarks.scans.scans import TRAIN_GRADIENT, frames_of_test_split, reference_scan
from engine.reconstruction.method_settings import MethodSettings
from export.errors import ExportError, ParityError
from trainer.loop.journal import METRICS_FILE

FRAMES = 512
QUICK_FRAMES = 16


@dataclass(frozen=True)
class Start:
    """A start of the networks: its name here, its model, and the paper's pSNR in dB."""

    name: str
    model: str
    paper: float


STARTS = (
    Start("both pre-trained", model_name("deq", INITIALISATION_SNR), 37.6),
    Start("random RDN", "init-random-rdn", 29.9),
    Start("random LC", "init-random-lc", 20.2),
    Start("both random", "init-random-both", 20.1),
    Start("LC pre-trained to noise-free data", "init-noise-free-lc", 29.9),
)

PSNR_KEY = "validation_psnr"
"""Of a validation in the log of a run."""

Row = Mapping[str, Any]


def run(quick: bool, output: Path) -> None:
    """Measure every start and write initialisation.json, initialisation.md and initialisation.png."""
    count = QUICK_FRAMES if quick else FRAMES
    config = {"quick": quick, "frames": count, "seed": 0, "split": "test"}
    shelf = ModelShelf()
    with BenchmarkRun("initialisation", output, config) as benchmark:
        benchmark.expect(len(STARTS))
        for start in STARTS:
            try:
                _row(benchmark, start, shelf.run(start.model), count)
            except (MissingModelError, ExportError, ParityError) as error:
                benchmark.leave_out(f"{start.name}: {error}")
        rows = benchmark.rows
        if not rows:
            raise MissingModelError(
                "none of the models is here; expected some in models/ablation: train them with "
                "python -m benchmarks.contestants.ablation_models"
            )
        blocks = [
            f"DEQ-MPI trained and tested at {INITIALISATION_SNR:g} dB from different starts of its two "
            "networks, the training being the same. Mean pSNR in dB (Eq. 37); the paper's on its own data.",
            markdown_table(losses(rows)),
            "Psi_LC ends with a projection on the ball (Eq. 25), so its data agree with the measurement to "
            "within epsilon whatever its weights are; here a random one does less harm than in the paper.",
            "![pSNR by start, ours and the paper's, and validations during the training](initialisation.png)",
            "## All figures\n\n`ms`: per frame on one core, of frames solved together.",
        ]
        benchmark.publish("Start of the networks", blocks, {"initialisation.png": _picture(rows)})


def _row(benchmark: BenchmarkRun, start: Start, bundle: ShelfBundle, count: int) -> None:
    identity = {"source_sha256": bundle.source_sha256}

    def measure() -> dict[str, Any]:
        frames = frames_of_test_split(TRAIN_GRADIENT, count, INITIALISATION_SNR)
        contestant = Contestant(start.name, "deq", MethodSettings(model=bundle.path), identity)
        solver = contestant.open(reference_scan(TRAIN_GRADIENT).operators)
        images, done = reconstruct(solver, frames.rows)
        return image_quality(images, frames.truth) | effort(done) | {"paper_psnr": start.paper}

    key = {
        "method": start.name,
        "snr_db": INITIALISATION_SNR,
        "train_gradient": TRAIN_GRADIENT,
        "test_gradient": TRAIN_GRADIENT,
    }
    benchmark.row(key, measure, identity)


def losses(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return for each start its pSNR, the paper's, and how many dB either lies behind the full method.

    Parameters
    ----------
    rows : sequence of mapping
        With method, psnr_mean and paper_psnr; without the full method nothing is behind it.
    """
    full = {row["method"]: row["psnr_mean"] for row in rows}.get(STARTS[0].name)
    return [
        {
            "start": row["method"],
            "pSNR": row["psnr_mean"],
            "behind": None if full is None else full - row["psnr_mean"],
            "paper: pSNR": row["paper_psnr"],
            "paper: behind": STARTS[0].paper - row["paper_psnr"],
        }
        for row in rows
    ]


def _picture(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    places = np.arange(len(rows))
    for shift, key, label in ((-0.2, "psnr_mean", "here"), (0.2, "paper_psnr", "paper")):
        bars = left.bar(places + shift, [row[key] for row in rows], 0.4, label=label)
        left.bar_label(bars, fmt="%.1f", fontsize=8)
    left.set(xticks=places, ylabel="mean pSNR in dB", title="test split")
    left.set_xticklabels([row["method"].replace(" to ", "\nto ") for row in rows], fontsize=8, rotation=20)
    left.legend(loc="lower right")
    measured = {row["method"] for row in rows}
    for start in STARTS:
        if start.name in measured:
            right.plot(
                *np.transpose(validations(MODELS / start.model / METRICS_FILE)), "o-", label=start.name
            )
    right.set(xlabel="steps of the equilibrium training", ylabel="mean pSNR in dB", title="validation split")
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure


def validations(log: Path) -> list[tuple[int, float]]:
    """Return the validations of a run: steps since pre-training, and the mean pSNR in dB."""
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    found = [(entry["step"], entry[PSNR_KEY]) for entry in entries if PSNR_KEY in entry]
    return [(step - found[0][0], psnr) for step, psnr in found]
