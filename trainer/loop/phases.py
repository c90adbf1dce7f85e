"""The phases of a run: what each one optimises, and with which loss."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import cos, pi

import torch
from torch import Tensor, nn

from engine.fixed_point.solve import FixedPointConfig
from trainer.config import PretrainLcConfig, PretrainRdnConfig, StageConfig, TrainConfig
from trainer.data.noise import add_noise, as_measurement, draw_uniform
from trainer.data.problem import Problem
from trainer.loop.image_losses import IMAGE_LOSSES
from trainer.loop.pretraining import TARGETS, consistency_loss, denoising_loss
from trainer.loop.step_record import StepRecord
from trainer.models.equilibrium import EquilibriumModel
from trainer.models.gradients import GradientStrategy, Implicit, ThroughIterates, one_step
from trainer.models.reconstruction_model import ReconstructionModel
from trainer.networks.consistency import LearnedConsistency
from trainer.networks.rdn import ResidualDenseNetwork
from trainer.stability.jacobian_penalty import radius_penalty

Loss = Callable[[torch.Generator, StepRecord], Tensor]
"""Draws a batch and returns its loss; solves, also those of the backward pass, are recorded."""


@dataclass(frozen=True)
class Phase:
    """One run of Adam with a learning rate that falls to zero along a half cosine.

    Attributes
    ----------
    name : str
    steps, batch_size, learning_rate
        Optimisation.
    module : Module
        Holds the weights to optimise.
    loss : callable
        See `Loss`.
    trains_reconstruction : bool
        Whether it trains the images that the model makes, so that validations during it mean something.
    """

    name: str
    steps: int
    batch_size: int
    learning_rate: float
    module: nn.Module
    loss: Loss
    trains_reconstruction: bool

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        return 0.5 * self.learning_rate * (1.0 + cos(pi * step / self.steps))


def make_phases(config: TrainConfig, model: ReconstructionModel, problem: Problem) -> list[Phase]:
    """List the phases of a run in order: Psi_RDN, Psi_LC if there is one, then the stages."""
    phases = [_pretrain_rdn(config.pretrain.rdn, model.rdn, problem)]
    if model.learned_consistency is not None:
        phases.append(_pretrain_lc(config.pretrain.lc, model.learned_consistency, problem))
    stages = [
        _stage(f"stage-{number}", stage, config, model, problem)
        for number, stage in enumerate(config.fit.stages, start=1)
    ]
    return phases + stages


def _pretrain_rdn(config: PretrainRdnConfig, rdn: ResidualDenseNetwork, problem: Problem) -> Phase:
    def loss(generator: torch.Generator, record: StepRecord) -> Tensor:
        images = problem.train.draw(config.batch_size, generator)
        record.lap("data")
        return denoising_loss(rdn, images, config.noise, generator)

    steps, batch, rate = config.steps, config.batch_size, config.learning_rate
    return Phase("pretrain-rdn", steps, batch, rate, rdn, loss, trains_reconstruction=False)


def _pretrain_lc(config: PretrainLcConfig, lc: LearnedConsistency, problem: Problem) -> Phase:
    noise, target = (config.measurement_noise, config.input_noise), TARGETS[config.target]

    def loss(generator: torch.Generator, record: StepRecord) -> Tensor:
        clean = problem.measure(problem.train.draw(config.batch_size, generator))
        record.lap("data")
        return consistency_loss(lc, problem.operators, clean, noise, generator, target)

    steps, batch, rate = config.steps, config.batch_size, config.learning_rate
    return Phase("pretrain-lc", steps, batch, rate, lc, loss, trains_reconstruction=False)


def _stage(
    name: str, stage: StageConfig, config: TrainConfig, model: ReconstructionModel, problem: Problem
) -> Phase:
    forward = config.reconstruction
    if stage.max_iterations is not None:
        forward = replace(forward, max_iterations=stage.max_iterations)

    precision, error_of = getattr(torch, stage.precision), IMAGE_LOSSES[config.fit.loss]

    def loss(generator: torch.Generator, record: StepRecord) -> Tensor:
        images = problem.train.draw(stage.batch_size, generator)
        snr = draw_uniform(*config.data.snr, stage.batch_size, generator)
        rows = add_noise(problem.measure(images), snr, generator)
        measurement = as_measurement(problem.operators, rows)
        record.lap("data")
        gradient = _strategy(stage, config.solver.backward, record)
        x, solution = model(problem.operators, measurement, forward, gradient, precision)
        if solution is not None:
            record("forward", solution)
        error = error_of(x, images.flatten(1))
        if stage.jacobian_weight == 0 or solution is None or not isinstance(model, EquilibriumModel):
            return error
        some = torch.arange(min(stage.jacobian_samples, stage.batch_size), device=x.device)
        step = model.step(problem.operators, measurement.take(some))
        penalty = radius_penalty(step, solution.value[some], stage.jacobian_target)
        return error + stage.jacobian_weight * penalty.loss

    steps, batch, rate = stage.steps, stage.batch_size, stage.learning_rate
    return Phase(name, steps, batch, rate, model, loss, trains_reconstruction=True)


def _strategy(stage: StageConfig, backward: FixedPointConfig, record: StepRecord) -> GradientStrategy:
    match stage.gradient:
        case "implicit":
            return Implicit(backward, lambda solution: record("backward", solution))
        case "through_iterates":
            return ThroughIterates(stage.iterates)
        case "one_step":
            return one_step
