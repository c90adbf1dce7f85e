"""Training runs that benchmarks define: what is missing is trained, what was stopped goes on.

Of a finished run only the configuration, the weights and a thinned log stay.
"""

import json
import shutil
from collections.abc import Mapping
from contextlib import chdir
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from rich.console import Console

from benchmarks.harness.record import ROOT
from engine.errors import DeqMpiError
from engine.machine.atomic_write import atomic_path
from trainer.config import DataConfig, TrainConfig
from trainer.data.problem import Problem, load_problem
from trainer.fit import fit
from trainer.loop.checkpoint import BEST_WEIGHTS, LAST_WEIGHTS, PRETRAINED_WEIGHTS, STATE_FILE
from trainer.loop.journal import METRICS_FILE, TENSORBOARD_FOLDER

KEPT_STEPS: Mapping[str, int] = MappingProxyType({"pretrain-lc": 50})
"""Of the steps of these phases every 50th stays in the log, of the others every tenth."""


def is_finished(folder: Path) -> bool:
    """Whether the model is there and its run is over."""
    return (folder / BEST_WEIGHTS).is_file() and not (folder / STATE_FILE).exists()


def train_missing(runs: Mapping[Path, TrainConfig]) -> None:
    """Train the models that are missing, by run folder, one after the other.

    Raises
    ------
    SystemExit
        After the one line that says why, if a run fails.
    """
    console = Console(stderr=True)
    missing = {folder: config for folder, config in runs.items() if not is_finished(folder)}
    for number, (folder, config) in enumerate(missing.items(), start=1):
        console.print(f"{folder.name} ({number} of {len(missing)})", highlight=False)
        try:
            train(folder, config)
        except DeqMpiError as error:
            console.print(f"Error: {error}", highlight=False, soft_wrap=True)
            raise SystemExit(error.exit_code) from error


def train(folder: Path, config: TrainConfig) -> None:
    """Train a model, or go on with it where it was stopped, and drop what only a resume needs."""
    with chdir(ROOT):  # the start weights are named relative to it
        fit(config, folder, resume=(folder / STATE_FILE).exists(), problem=_problem(config.data))
    keep_essentials(folder)


def _problem(data: DataConfig) -> Problem:
    """Return the problem of a run; runs that differ in their SNR only share one."""
    return _problem_at_any_snr(replace(data, snr=(0.0, 0.0), validation_snr=(0.0,)))


@cache
def _problem_at_any_snr(data: DataConfig) -> Problem:
    return load_problem(data, torch.device("cpu"))


def keep_essentials(folder: Path) -> None:
    """Thin the log of a finished run and delete what only a resume needs."""
    log = folder / METRICS_FILE
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    with atomic_path(log) as temporary:
        temporary.write_text("".join(line for line in lines if _is_kept(json.loads(line))), encoding="utf-8")
    shutil.rmtree(folder / TENSORBOARD_FOLDER, ignore_errors=True)
    for name in (LAST_WEIGHTS, PRETRAINED_WEIGHTS, STATE_FILE):  # the state last: it marks a run under way
        (folder / name).unlink(missing_ok=True)


def _is_kept(record: Mapping[str, Any]) -> bool:
    is_step = "loss" in record
    return not is_step or record["step"] % KEPT_STEPS.get(record["phase"], 10) == 0
