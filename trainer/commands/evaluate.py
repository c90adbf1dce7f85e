"""`trainer evaluate`: figures of a run beside its baselines."""

import json
from contextlib import nullcontext
from pathlib import Path

import click

from engine.machine.atomic_write import atomic_path
from engine.mpi.simulation.phantoms import Split
from trainer.evaluate import evaluate as evaluate_run


@click.command("evaluate")
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
def evaluate(run_dir: Path, split: Split, snr: tuple[float, ...], count: int, output: Path | None) -> None:
    """Compare the networks in RUN_DIR with their pre-trained start and with least squares."""
    # Opened first: a folder that is missing should not cost an evaluation.
    with atomic_path(output) if output is not None else nullcontext() as temporary:
        result = evaluate_run(run_dir, split, snr, count)
        if temporary is not None:
            temporary.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
    click.echo(result.to_markdown(), nl=False)
