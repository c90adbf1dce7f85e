"""A training step of the equilibrium model in eager PyTorch, as one first writes it after the DEQ tutorials.

The opponent of the trainer's step (`benchmarks.training_speed`): same networks, data, map, solver settings
and loss. What the trainer does beyond that is left out: images keep PyTorch's default layout, M and A^T are
applied one after the other, the solver goes on with the whole batch until the last sample has converged and
has no safeguard, and the step is recorded twice, for the weights and for the products with J^T.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from engine.fixed_point.safeguard import TINY_NORM
from engine.fixed_point.solve import FixedPointConfig
from trainer.config import StageConfig, TrainConfig
from trainer.data.linear_operators import TorchOperators
from trainer.data.noise import MeasuredBatch, add_noise, as_measurement, draw_uniform
from trainer.data.problem import Problem
from trainer.loop.image_losses import IMAGE_LOSSES
from trainer.loop.phases import Loss
from trainer.loop.step_record import StepRecord
from trainer.models.anderson import BatchSolution
from trainer.models.equilibrium import EquilibriumModel

StateMap = Callable[[Tensor], Tensor]
"""f of a fixed-point problem: states (B, n) to states (B, n)."""


def eager_loss(model: EquilibriumModel, problem: Problem, config: TrainConfig, stage: StageConfig) -> Loss:
    """Return the loss of a stage with the implicit gradient: draws a batch, and solves for it.

    Parameters
    ----------
    model : EquilibriumModel
        Its networks are used, and its `dual_start`.
    problem : Problem
    config : TrainConfig
        Noise, loss and solvers.
    stage : StageConfig
        Batch size; its precision is ignored.
    """
    error_of = IMAGE_LOSSES[config.fit.loss]

    def loss(generator: torch.Generator, record: StepRecord) -> Tensor:
        images = problem.train.draw(stage.batch_size, generator)
        snr = draw_uniform(*config.data.snr, stage.batch_size, generator)
        rows = add_noise(problem.measure(images), snr, generator)
        measurement = as_measurement(problem.operators, rows)
        record.lap("data")
        forward, backward = config.solver.forward, config.solver.backward
        x = eager_reconstruction(model, problem.operators, measurement, forward, backward, record)
        return error_of(x, images.flatten(1))

    return loss


def eager_reconstruction(
    model: EquilibriumModel,
    operators: TorchOperators,
    measurement: MeasuredBatch,
    forward: FixedPointConfig,
    backward: FixedPointConfig,
    record: Callable[[str, BatchSolution], None],
) -> Tensor:
    """Solve for B measurements and attach the implicit gradient by a hook.

    Parameters
    ----------
    model : EquilibriumModel
    operators : TorchOperators
    measurement : MeasuredBatch
    forward, backward : FixedPointConfig
        Of Eq. (14) and Eq. (32).
    record : callable
        Receives the accounts of both solves, as "forward" and "backward".

    Returns
    -------
    Tensor, shape (B, N)
        Image part of h_theta at the fixed point.
    """
    step = eager_step(model, operators, measurement)
    with torch.no_grad():
        solution = anderson(step, eager_start(model, operators, measurement), forward)
    record("forward", solution)
    state = step(solution.value)
    point = solution.value.clone().requires_grad_()
    again = step(point)

    def solve(cotangent: Tensor) -> Tensor:
        def transposed(s: Tensor) -> Tensor:
            return torch.autograd.grad(again, point, s, retain_graph=True)[0] + cotangent

        found = anderson(transposed, cotangent, backward)
        record("backward", found)
        return found.value

    if state.requires_grad:
        state.register_hook(solve)  # type: ignore[no-untyped-call]
    return state[:, : operators.n_voxels]


def eager_step(model: EquilibriumModel, operators: TorchOperators, measurement: MeasuredBatch) -> StateMap:
    """Return h_theta (Eqs. 15-17) for B measurements; states are (B, N + R + N) = (x, d0, d1)."""
    system_matrix, inverse = operators.system_matrix, operators.inverse
    lines, bins = operators.layout_shape
    n, r = operators.n_voxels, operators.n_rows
    epsilon = measurement.epsilon.reshape(-1, 1, 1, 1)
    noise = measurement.noise.reshape(-1, 1, 1, 1)

    def scatter(rows: Tensor) -> Tensor:
        dense = rows.new_zeros(len(rows), 2, lines * bins)
        dense[:, :, operators.index] = rows.reshape(len(rows), 2, -1)
        return dense.reshape(-1, 2, lines, bins)

    def gather(dense: Tensor) -> Tensor:
        return dense.flatten(2)[:, :, operators.index].flatten(1)

    data = scatter(measurement.rows)

    def step(state: Tensor) -> Tensor:
        x, d0, d1 = torch.split(state, [n, r, n], dim=1)
        v = scatter(x @ system_matrix.T - d0)
        z0 = gather(model.lc(v, data, operators.mask, epsilon))
        z1 = model.rdn((x - d1).reshape(-1, 1, *operators.image_shape), noise).flatten(1)
        x = ((z0 + d0) @ system_matrix + z1 + d1) @ inverse.T
        return torch.cat([x, d0 + z0 - x @ system_matrix.T, d1 + z1 - x], dim=1)

    return step


def eager_start(model: EquilibriumModel, operators: TorchOperators, measurement: MeasuredBatch) -> Tensor:
    """Return the start state (B, N + R + N): x_LS, the data dual of `AdmmStep.start`, zero."""
    rows = measurement.rows
    explained = rows @ operators.left_singular.T
    x = explained[:, : operators.start_matrix.shape[1]] @ operators.start_matrix.T
    d0 = model.dual_start / measurement.noise[:, None] * (rows - explained @ operators.left_singular)
    return torch.cat([x, d0, torch.zeros_like(x)], dim=1)


def anderson(f: StateMap, start: Tensor, config: FixedPointConfig) -> BatchSolution:
    """Iterate with Anderson's method on the whole batch until all samples converged or the budget ended.

    Parameters
    ----------
    f : callable
    start : Tensor, shape (B, n)
    config : FixedPointConfig
        Same meaning as in `trainer.models.anderson.solve_batch`; without its safeguard, no point is rejected.

    Returns
    -------
    BatchSolution
        f(z) at the smallest residual of each sample; `iterations` is the same for all.
    """
    count, size = start.shape
    memory = max(1, config.memory)
    points, values = start.new_zeros(count, memory, size), start.new_zeros(count, memory, size)
    ones = start.new_ones(count, 1)
    best, best_value = torch.full_like(ones[:, 0], torch.inf), start
    point, residuals = start, []
    for evaluation in range(config.max_iterations):
        value = f(point)
        points[:, evaluation % memory], values[:, evaluation % memory] = point, value
        residual = (value - point).norm(dim=1) / (value.norm(dim=1) + TINY_NORM)
        residuals.append(residual)
        improved = residual < best
        best = torch.where(improved, residual, best)
        best_value = torch.where(improved[:, None], value, best_value)
        if bool((residual <= config.tolerance).all()):
            break
        held = min(evaluation + 1, memory)
        differences = values[:, :held] - points[:, :held]
        gram = differences @ differences.transpose(1, 2)
        shift = config.regularization * torch.diagonal(gram, dim1=1, dim2=2).mean(dim=1)
        system = gram + shift[:, None, None] * torch.eye(held, dtype=gram.dtype, device=gram.device)
        weights = torch.linalg.solve(system, ones.expand(count, held))
        weights = (weights / weights.sum(dim=1, keepdim=True))[:, None]
        point = (weights @ (points[:, :held] + config.beta * differences))[:, 0]
    return BatchSolution(
        value=best_value,
        converged=best <= config.tolerance,
        residual=best.double(),
        iterations=torch.full((count,), len(residuals)),
        restarts=torch.zeros(count, dtype=torch.int64),
        residuals=torch.stack(residuals, dim=1).double(),
    )
