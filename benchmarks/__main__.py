"""Run one benchmark by its module's name."""

import importlib
from pathlib import Path

import click

from benchmarks.record import commit
from engine.errors import DeqMpiError

NAMES = ("accuracy", "realism", "training_curve")
"""Modules with a `run(quick, output)` that writes NAME.json, NAME.md and NAME.png."""


@click.command()
@click.argument("name", type=click.Choice(NAMES))
@click.option("--quick", is_flag=True, help="Fewer frames: minutes, and noisier figures.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("benchmarks/results"),
    show_default=True,
    help="Folder for the three result files.",
)
def main(name: str, quick: bool, output: Path) -> None:
    """Run benchmark NAME and write its table, data and picture."""
    commit()  # taken note of now: the tree may change while the benchmark runs
    output.mkdir(parents=True, exist_ok=True)
    try:
        importlib.import_module(f"benchmarks.{name}").run(quick=quick, output=output)
    except DeqMpiError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
