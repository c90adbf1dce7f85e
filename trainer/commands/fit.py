"""`trainer fit`: from a configuration to a run folder."""

from pathlib import Path

import click

from engine.errors import DeqMpiError
from trainer.config import load_config
from trainer.fit import fit as fit_networks
from trainer.loop.checkpoint import BEST_WEIGHTS
from trainer.loop.processes import join_processes


@click.command("fit")
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--out", "run_dir", type=click.Path(path_type=Path), required=True, help="Run folder; created if missing."
)
@click.option("--resume", is_flag=True, help="Continue the run in this folder from its last checkpoint.")
def fit(config: Path, run_dir: Path, *, resume: bool) -> None:
    """Pre-train the networks of a method and train the images they make as CONFIG (TOML) says.

    Ctrl-C ends the step under way, writes a checkpoint and exits with code 130. With several processes,
    start it with torchrun: torchrun --nproc-per-node=2 -m trainer fit CONFIG --out RUN.
    """
    with join_processes() as processes:
        try:
            with processes.together():
                settings = load_config(config)
            fit_networks(settings, run_dir, resume=resume, processes=processes)
        except DeqMpiError as error:
            if processes.is_main:
                raise
            raise click.exceptions.Exit(error.exit_code) from error  # the main process has said it
        if processes.is_main:
            click.echo(f"best weights in {run_dir / BEST_WEIGHTS}")
