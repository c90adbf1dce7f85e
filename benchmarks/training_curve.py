"""How the shipped networks learned: the logs of both equilibrium runs in `models/`, as a picture."""

import json
from collections.abc import Iterable
from math import exp
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.harness.record import ROOT, write_record, write_table

RUNS = ("wide-equilibrium", "reference")
"""The equilibrium training of the networks that ship, in order."""

PREFIX = "validation_psnr_at_"


def run(quick: bool, output: Path) -> None:  # noqa: ARG001 - there is nothing to shorten
    """Write training_curve.json, training_curve.md and training_curve.png."""
    logs = {name: _read(ROOT / "models" / name / "metrics.jsonl") for name in RUNS}
    rows = [
        {"run": name, "step": entry["step"], "phase": entry["phase"]}
        | {key.removeprefix("validation_"): value for key, value in entry.items() if key.startswith(PREFIX)}
        | {
            "ssim": 100 * entry["validation_ssim"],
            "residual_median": entry["validation_residual_median"],
        }
        for name, log in logs.items()
        for entry in log
        if "validation_psnr" in entry
    ]
    write_record(output / "training_curve.json", {"runs": list(RUNS)}, rows)
    notes = (
        "Validation split; after at most 15 evaluations in the first run, 25 in the second, which trains "
        "with 30. pSNR in dB, SSIM in %."
    )
    write_table(output / "training_curve.md", "Training of the shipped networks", notes, rows)
    draw(_in_a_row(logs.values())).savefig(output / "training_curve.png", dpi=110)


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _in_a_row(logs: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Join logs, counting steps through; the start of a run repeats the end of the one before."""
    joined: list[dict[str, Any]] = []
    for log in logs:
        done = joined[-1]["step"] if joined else 0
        joined += [{**entry, "step": entry["step"] + done} for entry in log if entry["step"] or not done]
    return joined


def draw(log: list[dict[str, Any]]) -> Figure:
    """Draw the loss "log_l1" and the validation figures of a run's records."""
    steps = [entry for entry in log if "loss" in entry]
    checks = [entry for entry in log if "validation_psnr" in entry]
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([entry["step"] for entry in steps], [exp(entry["loss"]) for entry in steps], lw=0.7)
    left.set(
        xlabel="step", ylabel="geometric mean of the images' errors", title="training loss", yscale="log"
    )
    levels = [key for key in checks[-1] if key.startswith(PREFIX)]
    for key in levels:
        right.plot(
            [entry["step"] for entry in checks],
            [entry[key] for entry in checks],
            "o-",
            label=key.removeprefix(PREFIX).replace("dB", " dB SNR"),
        )
    right.set(xlabel="step", ylabel="mean pSNR in dB", title="validation; step 0 is the pre-trained start")
    # Below the axes, where no curve can run: there are curves at every height.
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, frameon=False)
    return figure
