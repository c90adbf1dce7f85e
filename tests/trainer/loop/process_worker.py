"""What each of the processes does that `test_processes.py` starts with torchrun.

Called with the path of a folder. It holds `inputs.pt`; runs, gradients and errors are left in it for the
tests to look at.
"""

import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

import trainer.loop.phases
from trainer.data.noise import MeasuredBatch
from trainer.fit import fit
from trainer.loop.optimisation import Optimisation
from trainer.loop.processes import Processes, join_processes
from trainer.models.gradients import Implicit


def shared_gradient(inputs, processes: Processes) -> dict[str, torch.Tensor]:
    """Gradient of the equilibrium loss, each process having its share of the samples."""
    model, operators, rows, epsilon, truth, solver = inputs["gradient"]
    mine = slice(processes.rank, None, processes.count)
    measurement = MeasuredBatch(rows[mine], epsilon[mine])
    x, _ = model(operators, measurement, solver, Implicit(solver, lambda _: None))
    (x - truth[mine]).abs().mean().backward()
    processes.mean_gradients(model.parameters())
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def at_step(number: int, action: Callable[[], None]) -> Callable[[], None]:
    """Do something during a step of the next run, counted from 1; returns how to put things back."""
    original, calls = Optimisation._optimise, []

    def optimise(self, phase, optimizer):
        calls.append(phase)
        if len(calls) == number:
            action()
        return original(self, phase, optimizer)

    def undo() -> None:
        Optimisation._optimise = original

    Optimisation._optimise = optimise
    return undo


def spoil(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change the loss of the step under way."""
    original = trainer.loop.phases.denoising_loss

    def loss(*args):
        trainer.loop.phases.denoising_loss = original
        return change(original(*args))

    trainer.loop.phases.denoising_loss = loss


def defect(_: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("a defect")


def attempt(name: str, folder: Path, processes: Processes, action: Callable[[], object]) -> None:
    """Carry out an action that is to fail, and write down how it did."""
    try:
        action()
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
    else:
        text = "no error"
    (folder / f"{name}-{processes.rank}.txt").write_text(text)


def main(folder: Path) -> None:
    inputs = torch.load(folder / "inputs.pt", weights_only=False)
    config, problem = inputs["config"], inputs["problem"]
    torch.set_num_threads(1)
    with join_processes() as processes:
        torch.save(shared_gradient(inputs, processes), folder / f"gradient-{processes.rank}.pt")
        on_second = processes.rank == 1

        def run(name: str, resume: bool = False, settings=config):
            return fit(settings, folder / name, resume, problem, processes)

        model = run("straight")
        torch.save(model.state_dict(), folder / f"weights-{processes.rank}.pt")
        undo = at_step(6, lambda: signal.raise_signal(signal.SIGINT) if on_second else None)
        attempt("stopped", folder, processes, lambda: run("stopped"))
        undo()
        run("stopped", resume=True)

        undo = at_step(2, lambda: spoil(lambda loss: loss * torch.nan) if on_second else None)
        attempt("nan", folder, processes, lambda: run("nan"))
        undo()
        undo = at_step(2, lambda: spoil(defect) if on_second else None)
        attempt("defect", folder, processes, lambda: run("defect"))
        undo()
        attempt("occupied", folder, processes, lambda: run("straight"))
        stage = replace(config.fit.stages[0], batch_size=3)
        uneven = replace(config, fit=replace(config.fit, stages=(stage,)))
        attempt("uneven", folder, processes, lambda: run("uneven", settings=uneven))

        if on_second:
            return
        attempt("left", folder, processes, lambda: run("left"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
