"""The command `engine tune`: the hand-set weights of the methods for one system matrix."""

import hashlib
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from engine.calibration.calibrate import system_matrix_from_mdf
from engine.commands.arguments import parse_levels, require_distinct_files
from engine.machine.atomic_write import atomic_path
from engine.mpi.simulation.scanner import PRESETS
from engine.reconstruction.methods import tunable
from engine.solvers.regularization import save_weights
from engine.tuning.emulation import Scan, emulate_scan, scan_of
from engine.tuning.report import tuning_report
from engine.tuning.result import Trial, TuningConfig, TuningResult
from engine.tuning.tune import tune


def _names(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


@click.command(short_help="Choose the hand-set weights of the methods for a system matrix.")
@click.argument("system_matrix", metavar="SYSTEM_MATRIX")
@click.argument("weights", type=click.Path(path_type=Path))
@click.option(
    "--methods",
    callback=_names,
    default=",".join(tunable()),
    show_default=True,
    metavar="NAME,NAME",
    help="Methods to tune.",
)
@click.option(
    "--snr",
    "snr_db",
    callback=parse_levels,
    default=",".join(f"{snr:g}" for snr in TuningConfig.snr_db),
    show_default=True,
    metavar="DB,DB",
    help="Mean measurement SNRs (Eq. 36) to tune at.",
)
@click.option("--frames", type=int, default=TuningConfig.frames, show_default=True, help="Phantoms per SNR.")
@click.option("--seed", type=int, default=TuningConfig.seed, show_default=True, help="Phantoms and noise.")
@click.option(
    "--model", type=click.Path(path_type=Path), help="Denoiser bundle of pp-mpi.  [the one that ships]"
)
@click.option("--table", type=click.Path(path_type=Path), help="Also write what was tried (Markdown).")
def tune_command(
    system_matrix: str,
    weights: Path,
    methods: tuple[str, ...],
    snr_db: tuple[float, ...],
    frames: int,
    seed: int,
    model: Path | None,
    table: Path | None,
) -> None:
    """Find the weights with the highest pSNR on emulated data of SYSTEM_MATRIX and write them to WEIGHTS.

    SYSTEM_MATRIX is an MDF calibration, or the name of a preset of engine simulate.

    Example: engine tune system-matrix.mdf weights.json --methods art,admm-tv --table tried.md
    """
    outputs = [path for path in (weights, table) if path is not None]
    require_distinct_files([Path(system_matrix)], outputs)
    config = TuningConfig(snr_db=snr_db, frames=frames, seed=seed, model=model)
    started = time.perf_counter()
    with ExitStack() as stack:
        staged = {path: stack.enter_context(atomic_path(path)) for path in outputs}
        result = _tune(_scan(system_matrix), methods, config)
        save_weights(staged[weights], result.weights, _source(system_matrix, result))
        if table is not None:
            title = f"# Hand-set weights for {Path(system_matrix).name}\n\n"
            staged[table].write_text(title + tuning_report(result), encoding="utf-8")
    _summarise(result)
    seconds = time.perf_counter() - started
    click.echo(f"wrote {', '.join(str(path) for path in outputs)} in {seconds:.0f} s")


def _scan(system_matrix: str) -> Scan:
    if system_matrix in PRESETS:
        return emulate_scan(system_matrix)
    return scan_of(system_matrix_from_mdf(system_matrix))


def _tune(scan: Scan, methods: tuple[str, ...], config: TuningConfig) -> TuningResult:
    from rich.console import Console

    console = Console(stderr=True)
    n_trials = 0
    with console.status("preparing") as status:

        def show(trial: Trial) -> None:
            nonlocal n_trials
            n_trials += 1
            values = ", ".join(f"{name} {value:g}" for name, value in trial.weights.items())
            status.update(
                f"{n_trials} trials; {trial.method} at {trial.snr_db:g} dB: {values}, {trial.iterations} "
                f"iterations: {trial.psnr_mean:.2f} dB pSNR"
            )

        return tune(scan, methods, config, show)


def _source(system_matrix: str, result: TuningResult) -> dict[str, Any]:
    source: dict[str, Any] = {"system_matrix": Path(system_matrix).name}
    if system_matrix not in PRESETS:
        with Path(system_matrix).open("rb") as stream:
            source["sha256"] = hashlib.file_digest(stream, "sha256").hexdigest()
    return source | result.figures()


def _summarise(result: TuningResult) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("method", "SNR", "paper", "chosen", "iterations", "pSNR of the paper's", "pSNR")
    for method, tuning in result.methods.items():
        for place, chosen in enumerate(tuning.chosen):
            paper = tuning.published[place] if tuning.published else None
            table.add_row(
                method,
                f"{chosen.snr_db:g}",
                "-" if paper is None else _values(paper),
                _values(chosen),
                str(chosen.iterations),
                "-" if paper is None else f"{paper.psnr_mean:.2f}",
                f"{chosen.psnr_mean:.2f}",
            )
    Console().print(table)
    for method in (name for name, tuning in result.methods.items() if tuning.at_limit):
        click.echo(
            f"Note: {method}: a chosen value is the last that is searched; a better one may lie beyond",
            err=True,
        )


def _values(trial: Trial) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in trial.weights.items())
