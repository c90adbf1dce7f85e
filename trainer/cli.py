"""The command `trainer`: a thin shell around `trainer.fit` and `trainer.evaluate`."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from engine.atomic_write import atomic_path
from engine.errors import DeqMpiError


class _Group(click.Group):
    """Reports the errors of this project on one line, with their exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DeqMpiError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(error.exit_code)


@click.group(cls=_Group)
@click.version_option(package_name="deq-mpi")
def main() -> None:
    """Train the networks of DEQ-MPI."""


@main.command("fit")
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--out", "run_dir", type=click.Path(path_type=Path), required=True, help="Run folder; created if missing."
)
@click.option("--resume", is_flag=True, help="Continue the run in this folder from its last checkpoint.")
def fit_command(config: Path, run_dir: Path, *, resume: bool) -> None:
    """Pre-train the networks and train their fixed point as CONFIG (TOML) says."""
    from trainer.config import load_config

    settings = load_config(config)
    # torch takes seconds to import; a wrong configuration is reported before.
    from trainer.fit import fit

    fit(settings, run_dir, resume=resume)
    click.echo(f"best weights: {run_dir / 'weights.safetensors'}")


@main.command("evaluate")
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    default="test",
    show_default=True,
    help="Set of phantoms.",
)
@click.option(
    "--snr",
    type=float,
    multiple=True,
    default=(15.0, 25.0, 35.0),
    show_default=True,
    help="Measurement SNR in dB; may be repeated.",
)
@click.option("--count", type=click.IntRange(min=1), default=256, show_default=True, help="Number of images.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the figures to this file as JSON.")
def evaluate_command(
    run_dir: Path, split: Any, snr: tuple[float, ...], count: int, output: Path | None
) -> None:
    """Compare the networks of a run with their pre-trained start and with least squares."""
    from trainer.evaluate import evaluate

    result = evaluate(run_dir, split, snr, count)
    click.echo(result.to_markdown(), nl=False)
    if output is not None:
        with atomic_path(output) as temporary:
            temporary.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
