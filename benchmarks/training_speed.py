"""Images per second of the trainer's steps against a straightforward step in eager PyTorch.

All contestants train the same networks from the same trained weights on the same batches, with the settings
of the equilibrium run. They take turns step by step, so that whatever else the machine does hits all of them.
"""

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.contestants.eager_training import eager_loss
from benchmarks.contestants.model_shelf import MissingModelError
from benchmarks.harness.benchmark_run import BenchmarkRun
from benchmarks.harness.record import ROOT, markdown_table
from trainer.config import DataConfig, StageConfig, TrainConfig
from trainer.data.problem import Problem, load_problem
from trainer.loop.checkpoint import BEST_WEIGHTS, CONFIG_FILE, load_model
from trainer.loop.phases import Loss, make_phases
from trainer.loop.step_record import StepRecord
from trainer.models.equilibrium import EquilibriumModel

RUN = ROOT / "models" / "wide-equilibrium"
"""Run whose settings and weights are used."""

IMAGES = 256
"""Training images to draw from; their number does not change what a step costs."""

WANTED = 2.0
"""How many times as fast as the straightforward step the trainer is to be."""

SEED = 7
"""Of the batches, the same for all contestants."""

OPPONENT, SAME_PRECISION = "eager", "float32"
"""The straightforward step, and the trainer's in the same precision with the same gradient."""

TRAINER: Mapping[str, StageConfig] = MappingProxyType(
    {
        SAME_PRECISION: StageConfig(steps=1),
        "bfloat16": StageConfig(steps=1, precision="bfloat16"),
        "one_step": StageConfig(steps=1, gradient="one_step"),
    }
)
"""What differs between the stages of the trainer's contestants."""


@dataclass(frozen=True)
class Setting:
    """One comparison: steps of a size, on some threads, as many as are timed, and who takes part."""

    batch_size: int
    threads: int
    steps: int
    contestants: tuple[str, ...] = (OPPONENT, *TRAINER)


FULL = (
    Setting(16, 1, 12),
    Setting(32, 1, 6),
    Setting(16, 2, 6, (OPPONENT, SAME_PRECISION, "bfloat16")),
)
QUICK = (Setting(16, 1, 2),)


class Trainee:
    """A model under training: one contestant.

    Parameters
    ----------
    model : EquilibriumModel
    loss : callable
        See `trainer.loop.phases.Loss`.
    learning_rate, gradient_clip : float
        Of Adam; bound on the norm of the gradient.
    """

    def __init__(
        self, model: EquilibriumModel, loss: Loss, learning_rate: float, gradient_clip: float
    ) -> None:
        self._parameters = list(model.parameters())
        self._loss = loss
        self._optimizer = torch.optim.Adam(self._parameters, lr=learning_rate)
        self._clip = gradient_clip
        self._generator = torch.Generator().manual_seed(SEED)

    def gradient(self) -> tuple[float, torch.Tensor]:
        """Draw the next batch; return its loss and the gradient for all weights in one row, in float64."""
        loss, _ = self._differentiate()
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        # In the order of the indices, whatever the layout in memory.
        return loss, torch.cat([gradient.reshape(-1).double() for gradient in gradients])

    def step(self) -> StepRecord:
        """Do one step of the optimisation, as `trainer.loop.optimisation` does; return its account."""
        _, record = self._differentiate()
        torch.nn.utils.clip_grad_norm_(self._parameters, self._clip)
        self._optimizer.step()
        return record

    def _differentiate(self) -> tuple[float, StepRecord]:
        self._optimizer.zero_grad(set_to_none=True)
        record = StepRecord(self._generator.device)
        loss = self._loss(self._generator, record)
        value = loss.item()
        record.lap("forward")
        loss.backward()  # type: ignore[no-untyped-call]
        record.lap("backward")
        return value, record


def run(quick: bool, output: Path) -> None:
    """Measure every setting and write training_speed.json, training_speed.md and training_speed.png."""
    settings = QUICK if quick else FULL
    model, trained = load_trained(RUN)
    config = {
        "quick": quick,
        "run": RUN.name,
        "seed": SEED,
        "torch": torch.__version__,
        "rdn": vars(trained.model.rdn),
        "forward": trained.solver.forward.to_dict(),
        "backward": trained.solver.backward.to_dict(),
        "dual_start": trained.solver.dual_start,
        "loss": trained.fit.loss,
    }
    identity = {
        file: hashlib.sha256((RUN / file).read_bytes()).hexdigest() for file in (CONFIG_FILE, BEST_WEIGHTS)
    }
    with BenchmarkRun("training_speed", output, config) as benchmark:
        benchmark.expect(len(settings))
        for setting in settings:
            key = {"batch_size": setting.batch_size, "threads": setting.threads, "steps": setting.steps}
            benchmark.row(key, partial(_measure, setting, model, trained), identity)
        # The contestants of a setting are measured together, as they take turns; each is a row to read.
        benchmark.rows = [line for row in benchmark.rows for line in _lines(row)]
        benchmark.publish(
            "Speed of training steps",
            _blocks(benchmark.rows, trained),
            {"training_speed.png": _picture(benchmark.rows)},
        )


def _lines(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    shared = {name: value for name, value in row.items() if name != "contestants"}
    return [{**shared, **figures} for figures in row["contestants"]]


def _measure(setting: Setting, model: EquilibriumModel, config: TrainConfig) -> dict[str, Any]:
    previous = torch.get_num_threads()
    torch.set_num_threads(setting.threads)
    try:
        made = trainees(setting.batch_size, setting.contestants, model, config)
        return {"contestants": compare(made, setting.batch_size, setting.steps)}
    finally:
        torch.set_num_threads(previous)


def load_trained(folder: Path) -> tuple[EquilibriumModel, TrainConfig]:
    """Read the networks of a run, and its configuration with the evaluations of its first stage.

    Raises
    ------
    MissingModelError
        If there is no such run, or it is one without a stage that trains an equilibrium.
    """
    if not all((folder / file).is_file() for file in (CONFIG_FILE, BEST_WEIGHTS)):
        raise MissingModelError(
            f"no finished run in {folder}; expected its {CONFIG_FILE} and {BEST_WEIGHTS}: train it as "
            "models/README.md says"
        )
    model, config = load_model(folder)
    if not isinstance(model, EquilibriumModel) or not config.fit.stages:
        raise MissingModelError(
            f"{folder} is a run of {config.method} with {len(config.fit.stages)} stages; expected one of deq "
            "with a stage at least: choose another run"
        )
    limit = config.fit.stages[0].max_iterations
    if limit is None:
        return model, config
    forward = replace(config.solver.forward, max_iterations=limit)
    return model, replace(config, solver=replace(config.solver, forward=forward))


@cache
def _problem(data: DataConfig) -> Problem:
    return load_problem(replace(data, train=IMAGES, validation=1), torch.device("cpu"))


def trainees(
    batch_size: int, names: Sequence[str], trained: EquilibriumModel, config: TrainConfig
) -> dict[str, Trainee]:
    """Make contestants by their names, each with a copy of the trained networks of its own."""
    problem, rate = _problem(config.data), config.fit.stages[0].learning_rate
    made = {}
    for name in names:
        model = deepcopy(trained)
        stage = replace(TRAINER.get(name, TRAINER[SAME_PRECISION]), batch_size=batch_size, learning_rate=rate)
        if name == OPPONENT:
            loss = eager_loss(model, problem, config, stage)
        else:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as `fit` does
            own = replace(config, fit=replace(config.fit, stages=(stage,)))
            loss = make_phases(own, model, problem)[-1].loss
        made[name] = Trainee(model, loss, rate, config.fit.gradient_clip)
    return made


def compare(made: Mapping[str, Trainee], batch_size: int, steps: int) -> list[dict[str, Any]]:
    """Compare gradients on one batch, which warms up, then time steps in turn; figures per contestant."""
    compared = {name: trainee.gradient() for name, trainee in made.items()}
    loss, gradient = compared[SAME_PRECISION]
    times: dict[str, list[_Timed]] = {name: [] for name in made}
    names = list(made)
    for number in range(steps):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:  # so that none always comes after the same one
            times[name].append(_timed_step(made[name]))
    medians = {name: float(np.median([step.seconds for step in times[name]])) for name in names}
    processor = {name: float(np.median([step.processor_seconds for step in times[name]])) for name in names}
    figures = []
    for name in names:
        own_loss, own_gradient = compared[name]
        figures.append(
            {
                "contestant": name,
                "images_per_second": batch_size / medians[name],
                "step_ms": 1e3 * medians[name],
                "step_ms_p90": 1e3 * float(np.percentile([step.seconds for step in times[name]], 90)),
                "ratio": medians[OPPONENT] / medians[name],
                "processor_ms": 1e3 * processor[name],
                "processor_ratio": processor[OPPONENT] / processor[name],
                **_shares(times[name]),
                **_evaluations([step.record for step in times[name]]),
                "gradient_cosine": _cosine(own_gradient, gradient),
                "loss_difference": abs(own_loss - loss) / abs(loss),
            }
        )
    return figures


@dataclass(frozen=True)
class _Timed:
    """A step: how long it took, the time that the processor spent on it, over all threads, its account."""

    seconds: float
    processor_seconds: float
    record: StepRecord


def _timed_step(trainee: Trainee) -> _Timed:
    started, processor_started = time.perf_counter(), time.process_time()
    record = trainee.step()
    return _Timed(time.perf_counter() - started, time.process_time() - processor_started, record)


def _shares(steps: Sequence[_Timed]) -> dict[str, float]:
    total = sum(step.seconds for step in steps)
    parts = ("data", "forward", "backward")
    return {f"share_{part}": sum(step.record.seconds[part] for step in steps) / total for part in parts}


def _evaluations(records: Sequence[StepRecord]) -> dict[str, float | None]:
    """Return the mean evaluations per sample of the two solves; None for a gradient that solves nothing."""
    means: dict[str, float | None] = {}
    for name in ("forward", "backward"):
        solves = [record.solves[name] for record in records if name in record.solves]
        counts = [float(solution.iterations.double().mean()) for solution in solves]
        means[f"{name}_evaluations"] = float(np.mean(counts)) if counts else None
    return means


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def _blocks(rows: Sequence[Mapping[str, Any]], config: TrainConfig) -> list[str]:
    rdn = config.model.rdn
    columns = ("batch_size", "threads", "contestant", "images_per_second", "step_ms", "step_ms_p90", "ratio")
    notes = (
        f"Optimisation steps (batch, noise, forward solve, backward solve, Adam) of a model with "
        f"{rdn.features} features, at most {config.solver.forward.max_iterations} evaluations forward and "
        f"{config.solver.backward.max_iterations} backward, from the weights of {RUN.name}. `eager` is a "
        "straightforward implementation (`benchmarks/contestants/eager_training.py`) with the same "
        "settings in float32; "
        "the others are the trainer with the implicit gradient and solves in float32 or bfloat16, and with "
        f"the cheaper gradient of one step. `ratio`: median step of `eager` over that of the contestant, at "
        f"least {WANTED:g} wanted of the implicit gradient. The contestants take turns."
    )
    legend = (
        "## All figures\n\n`processor_ms`, `processor_ratio`: time that the processor spent on a step, over "
        "all threads, and its ratio; where it is far below `step_ms` on one thread, the machine was busy "
        "with something else. `share_…`: of the time of the steps; the rest is clipping and Adam. "
        "`…_evaluations`: mean per measurement; the trainer drops those that have converged, and `eager` "
        "goes on with all. `gradient_cosine`, `loss_difference`: of the weight gradient and the loss against "
        "those of `float32`, on one batch, from the same weights; that of `one_step` is what this gradient "
        "neglects."
    )
    if any(row["threads"] > 1 for row in rows):
        legend += " Rows with more threads than one need as many free cores to mean something."
    picture = "![Images per second of training steps](training_speed.png)"
    return [notes, markdown_table(rows, columns), picture, legend]


def _picture(rows: Sequence[Mapping[str, Any]]) -> Figure:
    settings = list(dict.fromkeys((row["batch_size"], row["threads"]) for row in rows))
    names = list(dict.fromkeys(row["contestant"] for row in rows))
    width = 0.8 / len(names)
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(names):
        chosen = [row for row in rows if row["contestant"] == name]
        places = [settings.index((row["batch_size"], row["threads"])) for row in chosen]
        offset = (number - (len(names) - 1) / 2) * width
        speeds = [row["images_per_second"] for row in chosen]
        bars = axes.bar(np.array(places) + offset, speeds, width, label=name)
        axes.bar_label(bars, [f"{row['ratio']:.1f}x" for row in chosen], padding=2, fontsize=8)
    axes.set(ylabel="images per second", title="training steps", xticks=range(len(settings)))
    threads = {1: "one thread", 2: "two threads"}
    axes.set_xticklabels([f"batch of {size}, {threads.get(n, f'{n} threads')}" for size, n in settings])
    axes.grid(alpha=0.3, axis="y")
    axes.legend()
    return figure
