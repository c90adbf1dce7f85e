"""The optimisation loop: steps, checks, validations and checkpoints, over all phases of a run."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from engine.errors import NonFiniteError
from engine.fixed_point import FixedPointConfig
from trainer.anderson import BatchSolution
from trainer.checkpoint import (
    BEST_WEIGHTS,
    LAST_WEIGHTS,
    PRETRAINED_WEIGHTS,
    RunState,
    save_state,
    save_weights,
)
from trainer.interruption import InterruptedRunError, StopRequest
from trainer.journal import Journal
from trainer.linear_operators import TorchOperators
from trainer.phases import Phase
from trainer.reconstruction_model import ReconstructionModel
from trainer.validation import FixedMeasurements, assess, reconstruct


@dataclass(frozen=True)
class Validation:
    """What to reconstruct at a validation, and how.

    Attributes
    ----------
    operators : TorchOperators
    measurements : FixedMeasurements
    solver : FixedPointConfig
    """

    operators: TorchOperators
    measurements: FixedMeasurements
    solver: FixedPointConfig

    def figures(self, model: ReconstructionModel) -> dict[str, float]:
        """Reconstruct and return the mean pSNR, over all and per SNR, and the figures of a solve."""
        measured = self.measurements
        images, solution = reconstruct(model, self.operators, measured.rows, self.solver)
        quality = assess(images, measured.truth)
        per_snr = {
            f"validation_psnr_at_{snr:g}dB": float(quality.psnr[measured.snr == snr].mean())
            for snr in np.unique(measured.snr)
        }
        return {
            "validation_psnr": float(quality.psnr.mean()),
            **per_snr,
            "validation_ssim": float(quality.ssim.mean()),
            **({} if solution is None else solution.summary("validation")),
        }


class Optimisation:
    """A run under way: its model, random generator, position and record.

    Parameters
    ----------
    model : ReconstructionModel
    generator : torch.Generator
        The only source of randomness of the steps.
    phases : list of Phase
    validation : Validation
    validate_every : int
        Steps between validations and checkpoints.
    gradient_clip : float
        Bound on the norm of the gradient.
    run_dir : Path
    """

    def __init__(
        self,
        model: ReconstructionModel,
        generator: torch.Generator,
        phases: list[Phase],
        validation: Validation,
        *,
        validate_every: int,
        gradient_clip: float,
        run_dir: Path,
    ) -> None:
        self._model = model
        self._generator = generator
        self._phases = phases
        self._validation = validation
        self._validate_every = validate_every
        self._gradient_clip = gradient_clip
        self._run_dir = run_dir
        self._phase, self._step, self._total = 0, 0, 0
        self._best: float | None = None
        self._optimizer_state: dict[str, object] = {}

    @property
    def total(self) -> int:
        """Steps done in all phases."""
        return self._total

    def restore(self, state: RunState) -> None:
        """Continue from a saved state."""
        self._model.load_state_dict(state.model)
        self._generator.set_state(state.generator)
        self._phase, self._step, self._total = state.phase, state.step, state.total
        self._best = state.best_psnr
        self._optimizer_state = state.optimizer

    def run(self, journal: Journal, stop: StopRequest) -> None:
        """Carry out what is left of all phases.

        Raises
        ------
        NonFiniteError
            If a loss, gradient or solve is NaN or infinite; the last checkpoint stays as it is.
        InterruptedRunError
            If a stop was asked for; a checkpoint of the step just done is written first.
        """
        while self._phase < len(self._phases):
            phase = self._phases[self._phase]
            if phase.trains_reconstruction and self._best is None:
                self._finish_pretraining(journal, "before stage-1")
            self._run_phase(phase, journal, stop)
            self._phase, self._step, self._optimizer_state = self._phase + 1, 0, {}
            self.save()
        if self._best is None:
            self._finish_pretraining(journal, "after pre-training")

    def _finish_pretraining(self, journal: Journal, phase: str) -> None:
        save_weights(self._run_dir / PRETRAINED_WEIGHTS, self._model)
        self._validate(journal, phase)
        self.save()

    def _run_phase(self, phase: Phase, journal: Journal, stop: StopRequest) -> None:
        optimizer = torch.optim.Adam(phase.module.parameters(), lr=phase.learning_rate)
        if self._optimizer_state:
            optimizer.load_state_dict(self._optimizer_state)
        journal.begin(phase.name, phase.steps, self._step)
        while self._step < phase.steps:
            figures = self._optimise(phase, optimizer)
            self._step += 1
            self._total += 1
            self._optimizer_state = optimizer.state_dict()
            journal.step(self._total, phase.name, phase.batch_size, figures)
            if self._step % self._validate_every == 0 or self._step == phase.steps:
                if phase.trains_reconstruction:
                    self._validate(journal, phase.name)
                self.save()
                journal.checkpoint(self._total, phase.name)
            if stop.asked:
                self.save()
                raise InterruptedRunError(
                    f"stopped after step {self._step} of {phase.steps} of {phase.name}; the checkpoint is in "
                    f"{self._run_dir}: continue with --resume"
                )

    def _optimise(self, phase: Phase, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """Do one step and return its figures."""
        solves: dict[str, BatchSolution] = {}
        rate = phase.learning_rate_at(self._step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        try:
            loss = phase.loss(self._generator, solves.__setitem__)
            self._require_finite(loss.item(), "loss")
            loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(phase.module.parameters(), self._gradient_clip)
            self._require_finite(norm.item(), "gradient norm")
        except NonFiniteError as error:
            raise NonFiniteError(
                f"{phase.name}, step {self._step + 1}: {error}; the checkpoint in {self._run_dir} is good"
            ) from error
        optimizer.step()
        figures = {"loss": loss.item(), "gradient_norm": norm.item(), "learning_rate": rate}
        for name, solution in solves.items():
            figures |= solution.summary(name)
        return figures

    @staticmethod
    def _require_finite(value: float, name: str) -> None:
        if not np.isfinite(value):
            raise NonFiniteError(f"the {name} is {value}; expected a finite number: lower the learning rate")

    def _validate(self, journal: Journal, phase: str) -> None:
        figures = self._validation.figures(self._model)
        journal.validation(self._total, phase, figures)
        if self._best is None or figures["validation_psnr"] > self._best:
            self._best = figures["validation_psnr"]
            save_weights(self._run_dir / BEST_WEIGHTS, self._model)

    def save(self) -> None:
        """Write a checkpoint."""
        save_weights(self._run_dir / LAST_WEIGHTS, self._model)
        state = RunState(
            phase=self._phase,
            step=self._step,
            total=self._total,
            best_psnr=self._best,
            model=self._model.state_dict(),
            optimizer=self._optimizer_state,
            generator=self._generator.get_state(),
        )
        save_state(self._run_dir, state)
