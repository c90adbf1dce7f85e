"""Run one benchmark by its module's name, or all of them."""

import importlib
import json
import time
from pathlib import Path

import click
from rich.console import Console

from benchmarks.harness.record import RESULTS, commit, is_exact
from benchmarks.harness.row_store import discard_all
from engine.errors import DeqMpiError

NAMES = (
    "tuning",
    "training_curve",
    "realism",
    "accuracy",
    "galleries",
    "snr_mismatch",
    "noise_levels",
    "upsampling",
    "ablation",
    "convergence",
    "stability",
    "scaling",
    "initialisation",
    "coverage",
    "robustness",
    "quality_time",
    "width_study",
    "eager_speed",
    "latency",
    "live",
    "transport",
    "training_speed",
)
"""Modules with a `run(quick, output)` that writes NAME.json, NAME.md and NAME.png. The tuning comes first, as
it writes the weights that the others use."""

ALL = "all"


@click.command()
@click.argument("name", type=click.Choice([*NAMES, ALL]))
@click.option("--quick", is_flag=True, help="Few frames: under a minute, and noisy figures.")
@click.option("--fresh", is_flag=True, help="Measure again what an earlier run has measured.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(RESULTS),
    show_default=True,
    help="Folder for the result files.",
)
def main(name: str, quick: bool, fresh: bool, output: Path) -> None:
    """Run benchmark NAME and write its table, data and picture.

    A run that was cut off goes on where it stopped. "all" runs every benchmark whose complete results of this
    commit are not there yet, and goes on after one that fails.
    """
    commit()  # taken note of now: the tree may change while the benchmark runs
    output.mkdir(parents=True, exist_ok=True)
    if name != ALL:
        _run(name, quick, fresh, output)
        return
    console = Console(stderr=True, highlight=False)
    failed = []
    for chosen in NAMES:
        if not fresh and is_complete(output / f"{chosen}.json", quick):
            console.print(f"{chosen}: complete for this commit")
            continue
        started = time.perf_counter()
        try:
            _run(chosen, quick, fresh, output)
        except click.ClickException as error:
            failed.append(chosen)
            console.print(f"{chosen}: {error.message}", style="red")
        console.print(f"{chosen}: {time.perf_counter() - started:.0f} s")
    if failed:
        raise click.ClickException(f"no results of {', '.join(failed)}; the reasons are above")


def is_complete(record: Path, quick: bool) -> bool:
    """Whether a record is that of a run with the same number of frames at this very commit."""
    if not record.is_file() or not is_exact(commit()):
        return False
    content = json.loads(record.read_text(encoding="utf-8"))
    return bool(content["commit"] == commit() and content["config"].get("quick", quick) == quick)


def _run(name: str, quick: bool, fresh: bool, output: Path) -> None:
    if fresh:
        discard_all(output, name)
    try:
        importlib.import_module(f"benchmarks.{name}").run(quick=quick, output=output)
    except DeqMpiError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
