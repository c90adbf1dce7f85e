"""The optimisation loop: steps, checks, validations and checkpoints, over all phases of a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from engine.errors import ConfigError, NonFiniteError
from engine.fixed_point.solve import FixedPointConfig
from trainer.data.linear_operators import TorchOperators
from trainer.loop.checkpoint import (
    BEST_WEIGHTS,
    LAST_WEIGHTS,
    PRETRAINED_WEIGHTS,
    RunState,
    load_model_state,
    save_state,
    save_tensors,
)
from trainer.loop.interruption import InterruptedRunError, StopRequest
from trainer.loop.journal import RunLog
from trainer.loop.phases import Phase
from trainer.loop.processes import Processes, SingleProcess
from trainer.loop.step_record import StepRecord
from trainer.loop.validation import FixedMeasurements, assess, reconstruct
from trainer.models.anderson import BatchSolution
from trainer.models.equilibrium import EquilibriumModel
from trainer.models.reconstruction_model import ReconstructionModel
from trainer.stability.divergence import DivergedRunError, DivergenceWatch
from trainer.stability.stability import measure_stability


@dataclass(frozen=True)
class Validation:
    """What to reconstruct at a validation, and how.

    Attributes
    ----------
    operators : TorchOperators
    measurements : FixedMeasurements
    solver : FixedPointConfig
    spectral_frames : int, optional
        How many of the measurements, from the first, tell the stability of a model with a fixed point.
    """

    operators: TorchOperators
    measurements: FixedMeasurements
    solver: FixedPointConfig
    spectral_frames: int = 0

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
            **self._stability(model),
        }

    def _stability(self, model: ReconstructionModel) -> dict[str, float]:
        if self.spectral_frames == 0 or not isinstance(model, EquilibriumModel):
            return {}
        rows = self.measurements.rows[: self.spectral_frames]
        return measure_stability(model, self.operators, rows, self.solver).summary("validation")


class Optimisation:
    """A run under way: its model, random generator, position and record.

    Parameters
    ----------
    model : ReconstructionModel
    generator : torch.Generator
        The only source of randomness of the steps; each process has its own.
    phases : list of Phase
        With the batch sizes of one process.
    validation : Validation
    validate_every : int
        Steps between validations and checkpoints.
    gradient_clip : float
        Bound on the norm of the gradient.
    run_dir : Path
    processes : Processes, optional
        Those that take part; all of them hold the same weights and take the same steps.
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
        processes: Processes | None = None,
    ) -> None:
        self.model = model
        self._generator = generator
        self._phases = phases
        self._validation = validation
        self._validate_every = validate_every
        self._gradient_clip = gradient_clip
        self._run_dir = run_dir
        self._processes = SingleProcess() if processes is None else processes
        self._watch = DivergenceWatch()
        self._phase, self._step, self._total = 0, 0, 0
        self._best: float | None = None
        self._optimizer_state: dict[str, object] = {}

    @property
    def total(self) -> int:
        """Steps done in all phases."""
        return self._total

    def restore(self, state: RunState) -> None:
        """Continue from a saved state.

        Raises
        ------
        ConfigError
            If it is that of another number of processes.
        InputError
            If it is that of other networks.
        """
        own = self._generator.get_state()
        generators, count = state.generator.reshape(-1, len(own)), self._processes.count
        if len(generators) != count:
            raise ConfigError(
                f"the checkpoint in {self._run_dir} is that of {len(generators)} processes, and this run has "
                f"{count}; expected the same number, as each has its own random numbers: "
                f"resume with torchrun --nproc-per-node={len(generators)}"
            )
        load_model_state(self._run_dir, state, self.model)
        self._generator.set_state(generators[self._processes.rank].clone())
        self._phase, self._step, self._total = state.phase, state.step, state.total
        self._best = state.best_psnr
        self._optimizer_state = state.optimizer
        self._watch = DivergenceWatch(**state.watch)

    def run(self, journal: RunLog, stop: StopRequest) -> None:
        """Carry out what is left of all phases.

        Raises
        ------
        NonFiniteError
            If a loss, gradient or solve is NaN or infinite; the last checkpoint stays as it is.
        DivergedRunError
            If images get worse and worse or fixed points are no longer found, likewise.
        InterruptedRunError
            If a stop was asked for; a checkpoint of the step just done is written first.
        ProcessError
            If another process of the run failed or ended.
        """
        while self._phase < len(self._phases):
            phase = self._phases[self._phase]
            if phase.trains_reconstruction and self._best is None:
                self._finish_pretraining(journal, "before stage-1")
            self._run_phase(phase, journal, stop)
            self._phase, self._step, self._optimizer_state = self._phase + 1, 0, {}
            self._watch.begin_phase()
            self.save()
        if self._best is None:
            self._finish_pretraining(journal, "after pre-training")

    def _finish_pretraining(self, journal: RunLog, phase: str) -> None:
        self._processes.on_main(lambda: save_tensors(self._run_dir / PRETRAINED_WEIGHTS, self.model))
        self._validate(journal, phase)
        self.save()

    def _run_phase(self, phase: Phase, journal: RunLog, stop: StopRequest) -> None:
        optimizer = torch.optim.Adam(phase.module.parameters(), lr=phase.learning_rate)
        if self._optimizer_state:
            optimizer.load_state_dict(self._optimizer_state)
        journal.begin(phase.name, phase.steps, self._step)
        images = phase.batch_size * self._processes.count
        while self._step < phase.steps:
            figures, seconds = self._optimise(phase, optimizer)
            self._step += 1
            self._total += 1
            self._optimizer_state = optimizer.state_dict()
            journal.step(self._total, phase.name, images, figures, seconds)
            if "forward_residual_mean" in figures:
                with self._explained(phase.name, self._step):
                    self._watch.solved(figures["forward_residual_mean"])
            if self._step % self._validate_every == 0 or self._step == phase.steps:
                if phase.trains_reconstruction:
                    self._validate(journal, phase.name)
                if self._watch.is_calm:  # or else the checkpoint before is the better one
                    self.save()
                journal.checkpoint(self._total, phase.name)
            if self._processes.any(stop.asked):
                self.save()
                raise InterruptedRunError(
                    f"stopped after step {self._step} of {phase.steps} of {phase.name}; the checkpoint is in "
                    f"{self._run_dir}: continue with --resume"
                )

    def _optimise(
        self, phase: Phase, optimizer: torch.optim.Optimizer
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Do one step; return its figures, and the seconds that its parts took."""
        record = StepRecord(self._generator.device)
        rate = phase.learning_rate_at(self._step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        with self._explained(phase.name, self._step + 1):
            with self._processes.together():
                loss = phase.loss(self._generator, record)
                self._require_finite(loss.item(), "loss")
                record.lap("forward")
                loss.backward()  # type: ignore[no-untyped-call]
                record.lap("backward")
            self._processes.mean_gradients(phase.module.parameters())
            norm = torch.nn.utils.clip_grad_norm_(phase.module.parameters(), self._gradient_clip)
            self._require_finite(norm.item(), "gradient norm")
        optimizer.step()
        mean_loss = self._processes.gather(loss.detach()[None]).mean().item()
        figures = {"loss": mean_loss, "gradient_norm": norm.item(), "learning_rate": rate}
        for name, solution in record.solves.items():
            figures |= self._of_all_processes(solution).summary(name)
        return figures, record.seconds

    @staticmethod
    def _require_finite(value: float, name: str) -> None:
        if not np.isfinite(value):
            raise NonFiniteError(f"the {name} is {value}; expected a finite number: lower the learning rate")

    @contextmanager
    def _explained(self, phase: str, step: int) -> Iterator[None]:
        """Say where training failed, and what there is to go on from."""
        try:
            yield
        except (NonFiniteError, DivergedRunError) as error:
            weights = LAST_WEIGHTS if self._best is None else BEST_WEIGHTS
            raise type(error)(
                f"{phase}, step {step}: {error}; the checkpoint in {self._run_dir} is good, and a new run "
                f"can start from {weights} there"
            ) from error

    def _of_all_processes(self, solution: BatchSolution) -> BatchSolution:
        """Return the account of a solve over the whole batch; its values stay those of this process."""
        account = torch.stack(
            [
                solution.converged.double(),
                solution.residual,
                solution.iterations.double(),
                solution.restarts.double(),
            ],
            dim=1,
        )
        converged, residual, iterations, restarts = self._processes.gather(account).unbind(dim=1)
        return replace(
            solution, converged=converged, residual=residual, iterations=iterations, restarts=restarts
        )

    def _validate(self, journal: RunLog, phase: str) -> None:
        figures = self._processes.on_main(lambda: self._validation.figures(self.model))
        journal.validation(self._total, phase, figures)
        psnr = figures["validation_psnr"]
        if self._best is None or psnr > self._best:
            self._best = psnr
            self._processes.on_main(lambda: save_tensors(self._run_dir / BEST_WEIGHTS, self.model))
        with self._explained(phase, self._step):
            self._watch.validated(psnr, self._best)

    def save(self) -> None:
        """Write a checkpoint."""
        state = RunState(
            phase=self._phase,
            step=self._step,
            total=self._total,
            best_psnr=self._best,
            model=self.model.state_dict(),
            optimizer=self._optimizer_state,
            generator=self._processes.gather(self._generator.get_state()[None]),
            watch=self._watch.as_dict(),
        )
        self._processes.on_main(lambda: self._write(state))

    def _write(self, state: RunState) -> None:
        save_tensors(self._run_dir / LAST_WEIGHTS, self.model)
        save_state(self._run_dir, state)
