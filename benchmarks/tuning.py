"""The hand-set weights cross-validated on the reference scanner: what the engine uses by default."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from rich.console import Console

from benchmarks.harness.record import write_page, write_record
from engine.reconstruction.methods import hand_set, tunable
from engine.solvers.regularization import default_weights_path, save_weights
from engine.tuning.emulation import emulate_scan
from engine.tuning.report import tuning_report
from engine.tuning.result import MethodTuning, Trial, TuningConfig, TuningResult
from engine.tuning.search import Lattice
from engine.tuning.tune import ITERATIONS, tune

PRESET = "reference-0.5"

QUICK = TuningConfig(snr_db=(15.0, 30.0), frames=2, lattice=Lattice(2))
QUICK_METHODS = tuple(method for method in tunable() if method != "pp-mpi")

COLUMNS = 4


def run(quick: bool, output: Path) -> None:
    """Write tuning.json, tuning.md and tuning.png; the full run also replaces the weights that ship."""
    console = Console(stderr=True, highlight=False)
    with console.status("tuning") as status:

        def show(trial: Trial) -> None:
            status.update(f"{trial.method}, {trial.snr_db:g} dB, {trial.iterations} iterations")

        methods, config = (QUICK_METHODS, QUICK) if quick else (tunable(), TuningConfig())
        result = tune(emulate_scan(PRESET), methods, config, show)
    publish(result, quick, output)
    if not quick:
        save_weights(default_weights_path(), result.weights, {"system_matrix": PRESET} | result.figures())


def publish(result: TuningResult, quick: bool, output: Path) -> None:
    """Write the record, the tables and the picture of a tuning."""
    rows = [
        {"method": method, "snr_db": trial.snr_db, "role": _role(tuning, trial)}
        | {"weights": dict(trial.weights), "iterations": trial.iterations}
        | {"psnr_mean": trial.psnr_mean, "psnr_std": trial.psnr_std, "n": result.config.frames}
        for method, tuning in result.methods.items()
        for trial in tuning.trials
    ]
    config = {"quick": quick, "preset": PRESET, "seed": result.config.seed, "split": "validation"}
    write_page(output / "tuning.md", "Hand-set weights, cross-validated", [tuning_report(result)], rows)
    draw(result).savefig(output / "tuning.png", dpi=110)
    write_record(output / "tuning.json", config, rows)


def _role(tuning: MethodTuning, trial: Trial) -> str:
    return "chosen" if trial in tuning.chosen else "published" if trial in tuning.published else "tried"


def draw(result: TuningResult) -> Figure:
    """Draw the mean pSNR against every weight, and against the number of iterations."""
    panels = [(method, name) for method in result.methods for name in hand_set(method).names]
    n_rows = -(-(len(panels) + 1) // COLUMNS)
    figure = Figure(figsize=(3.6 * COLUMNS, 3.2 * n_rows), layout="constrained")
    axes: Sequence[Axes] = list(figure.subplots(n_rows, COLUMNS, squeeze=False).flat)
    for panel, (method, name) in zip(axes, panels, strict=False):
        _draw_weight(panel, result.methods[method], name)
        panel.set_title(f"{method}, {result.methods[method].weights.iterations} iterations", fontsize=10)
    _draw_iterations(axes[len(panels)], result)
    for unused in axes[len(panels) + 1 :]:
        unused.set_axis_off()
    axes[0].set_ylabel("mean pSNR in dB")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9)
    return figure


def _draw_weight(panel: Axes, tuning: MethodTuning, name: str) -> None:
    for place, chosen in enumerate(tuning.chosen):
        # Of several weights: the best that was found with the others free.
        best: dict[float, float] = {}
        for trial in _at(tuning, chosen.snr_db, chosen.iterations):
            value = trial.weights[name]
            best[value] = max(trial.psnr_mean, best.get(value, trial.psnr_mean))
        weights = sorted(best)
        (line,) = panel.plot(weights, [best[weight] for weight in weights], "-", lw=1)
        style: dict[str, Any] = {"color": line.get_color(), "linestyle": "none"}
        panel.plot(
            chosen.weights[name], chosen.psnr_mean, "o", label=f"chosen at {chosen.snr_db:g} dB", **style
        )
        if tuning.published:
            paper = tuning.published[place]
            panel.plot(paper.weights[name], paper.psnr_mean, "x", **style)
    panel.set_xscale("log")
    panel.xaxis.set_minor_formatter(NullFormatter())  # within one decade its labels overlap
    panel.set_xlabel(f"{name} (x: the paper's)", fontsize=9)
    panel.grid(alpha=0.3)


def _draw_iterations(panel: Axes, result: TuningResult) -> None:
    for method, tuning in result.methods.items():
        means = {}
        for count in ITERATIONS:
            tried = [_at(tuning, chosen.snr_db, count) for chosen in tuning.chosen]
            if all(tried):
                means[count] = fmean(max(trial.psnr_mean for trial in trials) for trials in tried)
        panel.plot(list(means), list(means.values()), ".-", label=method)
        chosen_count = tuning.weights.iterations
        panel.plot(chosen_count, means[chosen_count], "ko", fillstyle="none")
    panel.set_xscale("log")
    panel.set_xlabel("iterations (best weights at each; circle: chosen)", fontsize=9)
    panel.set_title("mean over the SNRs", fontsize=10)
    panel.legend(fontsize=7)
    panel.grid(alpha=0.3)


def _at(tuning: MethodTuning, snr_db: float, iterations: int) -> list[Trial]:
    return [trial for trial in tuning.trials if (trial.snr_db, trial.iterations) == (snr_db, iterations)]
