"""How the shipped networks learned: the validation figures of both runs in `models/`, as a picture."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.record import ROOT, write_record, write_table

RUNS = ("pretrain", "reference")
PREFIX = "validation_psnr_at_"


def run(quick: bool, output: Path) -> None:  # noqa: ARG001 - there is nothing to shorten
    """Write training_curve.json, training_curve.md and training_curve.png."""
    logs = {name: _read(ROOT / "models" / name / "metrics.jsonl") for name in RUNS}
    rows = [
        {"run": name, "step": entry["step"], "phase": entry["phase"]}
        | {key.removeprefix("validation_"): value for key, value in entry.items() if key.startswith(PREFIX)}
        | {
            "ssim": 100 * entry["validation_ssim"],
            "residual_median": f"{entry['validation_residual_median']:.1e}",
        }
        for name, log in logs.items()
        for entry in log
        if "validation_psnr" in entry
    ]
    write_record(output / "training_curve.json", {"runs": list(RUNS)}, rows)
    notes = "Fixed point after at most 25 evaluations on the validation split; pSNR in dB, SSIM in %."
    write_table(output / "training_curve.md", "Training of the shipped networks", notes, rows)
    _picture(output / "training_curve.png", logs["reference"])


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _picture(path: Path, log: list[dict[str, Any]]) -> None:
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    steps = [entry for entry in log if "loss" in entry]
    checks = [entry for entry in log if "validation_psnr" in entry]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.plot([entry["step"] for entry in steps], [entry["loss"] for entry in steps], lw=0.7)
    left.set(xlabel="step", ylabel="mean absolute error", title="training loss (Eq. 13)", yscale="log")
    for key in (key for key in checks[-1] if key.startswith(PREFIX)):
        right.plot(
            [entry["step"] for entry in checks],
            [entry[key] for entry in checks],
            "o-",
            label=key.removeprefix(PREFIX).replace("dB", " dB SNR"),
        )
    right.set(xlabel="step", ylabel="mean pSNR in dB", title="validation; step 0 is the pre-trained start")
    right.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
