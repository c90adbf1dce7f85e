"""Safeguarded Anderson iteration for a batch of fixed points, the torch twin of `engine.fixed_point.solve`.

Every sample has its own residual, history, safeguard and end; a sample that has converged leaves the batch,
so that its value is frozen and costs nothing more.
"""

from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from engine.errors import NonFiniteError
from engine.fixed_point.safeguard import GROWTH_LIMIT, TINY_NORM
from engine.fixed_point.solve import FixedPointConfig


class BatchMap(Protocol):
    """A map f on states (B, n) that treats the samples of its batch independently."""

    def __call__(self, state: Tensor, /) -> Tensor:
        """Return f(state), of the same shape."""
        ...

    def take(self, samples: Tensor, /) -> "BatchMap":
        """Return the map of some samples, given their indices (int64) in this one's batch."""
        ...


@dataclass(frozen=True)
class BatchSolution:
    """Outcome of one solve per sample.

    Attributes
    ----------
    value : Tensor, shape (B, n)
        f(z) at each sample's smallest residual.
    converged : Tensor of bool, shape (B,)
    residual : Tensor of float64, shape (B,)
        Smallest relative residual ||f(z) - z|| / ||f(z)||.
    iterations : Tensor of int64, shape (B,)
        Evaluations of f spent on the sample.
    restarts : Tensor of int64, shape (B,)
        Accelerated points that the safeguard rejected.
    residuals : Tensor of float64, shape (B, evaluations)
        Residual after each evaluation; NaN once the sample has ended.
    """

    value: Tensor
    converged: Tensor
    residual: Tensor
    iterations: Tensor
    restarts: Tensor
    residuals: Tensor

    def summary(self, prefix: str) -> dict[str, float]:
        """Return the figures worth logging, under names that start with `prefix`."""
        return {
            f"{prefix}_iterations": self.iterations.double().mean().item(),
            f"{prefix}_converged": self.converged.double().mean().item(),
            f"{prefix}_residual_mean": self.residual.mean().item(),
            f"{prefix}_residual_median": self.residual.median().item(),
            f"{prefix}_residual_max": self.residual.max().item(),
            f"{prefix}_restarts": float(self.restarts.sum().item()),
        }


class _History:
    """The last `memory` pairs (f(z), f(z) - z) of each sample and the next points they suggest.

    All samples share one slot counter. A sample that was cleared marks its slots as empty; as it has no pair
    older than the clearing, the slots it fills afterwards are its newest ones, whatever their position.
    Values stay in the state's precision, the small systems are solved in float64.
    """

    def __init__(self, start: Tensor, config: FixedPointConfig) -> None:
        count, size = start.shape
        memory = max(1, config.memory)
        self._config = config
        self._slot = 0
        self._values = start.new_zeros(count, memory, size)
        self._residuals = start.new_zeros(count, memory, size)
        self._gram = start.new_zeros((count, memory, memory), dtype=torch.float64)
        self._filled = torch.zeros(count, memory, dtype=torch.bool, device=start.device)

    def lengths(self) -> Tensor:
        """Return the number of pairs each sample holds, shape (B,)."""
        return self._filled.sum(dim=1)

    def push(self, value: Tensor, residual: Tensor, cleared: Tensor) -> None:
        """Store a pair per sample, or forget all pairs of the samples in `cleared` (bool, (B,))."""
        slot = self._slot
        self._values[:, slot] = value
        self._residuals[:, slot] = residual
        row = torch.bmm(self._residuals, residual[:, :, None])[:, :, 0].double()
        self._gram[:, slot, :] = row
        self._gram[:, :, slot] = row
        self._filled[:, slot] = True
        self._filled[cleared] = False
        self._slot = (slot + 1) % self._values.shape[1]

    def weights(self) -> Tensor:
        """Return the weights of the pairs held, shape (B, memory), zero in empty slots; they sum to 1.

        They minimise ||sum_i a_i g_i||^2 + lambda mean_i(||g_i||^2) ||a||^2. The regularisation is relative,
        so that a rescaled problem takes the same steps.
        """
        filled = self._filled.double()
        gram = self._gram * filled[:, :, None] * filled[:, None, :]
        diagonal = torch.diagonal(gram, dim1=1, dim2=2)
        lengths = filled.sum(dim=1).clamp(min=1.0)
        shift = self._config.regularization * diagonal.sum(dim=1) / lengths
        # Empty slots get a unit diagonal and a zero right-hand side, so they drop out of the system.
        system = gram + torch.diag_embed(shift[:, None] * filled + (1.0 - filled))
        weights = torch.linalg.solve(system, filled)
        total = weights.sum(dim=1, keepdim=True)
        normalised: Tensor = weights / torch.where(total == 0.0, 1.0, total)
        return normalised

    def propose(self) -> Tensor:
        """Return the next points sum_i a_i (z_i + beta g_i), shape (B, n); zero where nothing is held."""
        weights = self.weights().to(self._values.dtype)[:, None, :]
        point = torch.bmm(weights, self._values)[:, 0]
        if self._config.beta != 1.0:
            point -= (1.0 - self._config.beta) * torch.bmm(weights, self._residuals)[:, 0]
        return point

    def take(self, samples: Tensor) -> None:
        """Keep only some samples."""
        self._values = self._values[samples]
        self._residuals = self._residuals[samples]
        self._gram = self._gram[samples]
        self._filled = self._filled[samples]


@dataclass
class _Samples:
    """What the iteration knows of the samples still in the batch, one entry each.

    `value` and `previous` are f(z) of this and the last evaluation, `best_value` that of the smallest
    residual `best`. `resumed_at` is the `best` of the last rejection. A `bold` point may be rejected.
    """

    index: Tensor
    value: Tensor
    previous: Tensor
    best_value: Tensor
    best: Tensor
    resumed_at: Tensor
    restarts: Tensor
    bold: Tensor

    @classmethod
    def at(cls, start: Tensor) -> "_Samples":
        index = torch.arange(len(start), device=start.device)
        unknown = start.new_full((len(start),), torch.inf, dtype=torch.float64)
        none = torch.zeros_like(index)
        return cls(index, start, start, start, unknown, unknown, none, none.bool())

    def take(self, samples: Tensor) -> "_Samples":
        return _Samples(*(getattr(self, field.name)[samples] for field in fields(self)))

    def judge(self, value: Tensor, residual: Tensor) -> Tensor:
        """Take note of an evaluation; return which samples' points are rejected, bool (B,)."""
        rejected = self.bold & (residual > GROWTH_LIMIT * self.best)
        improved = residual < self.best
        self.previous, self.value = self.value, value
        self.best_value = torch.where(improved[:, None], value, self.best_value)
        self.best = torch.where(improved, residual, self.best)
        return rejected

    def resume(self, rejected: Tensor) -> Tensor:
        """Return where rejected samples go on, (B, n): at f(best), or else by a plain step.

        From f(best) a second time the map, being deterministic, would only repeat itself.
        """
        repeated = rejected & (self.best == self.resumed_at)
        self.resumed_at = torch.where(rejected, self.best, self.resumed_at)
        self.restarts = self.restarts + rejected
        # A bold point follows an accepted one, so `previous` is a plain step from there.
        return torch.where(repeated[:, None], self.previous, self.best_value)


@torch.no_grad()
def solve_batch(step: BatchMap, start: Tensor, config: FixedPointConfig) -> BatchSolution:
    """Find z = f(z) for every sample of a batch; no gradient is recorded.

    Rules and constants are those of `engine.fixed_point.solve.solve_fixed_point`, sample by sample.

    Parameters
    ----------
    step : BatchMap
        f.
    start : Tensor, shape (B, n)
        First points.
    config : FixedPointConfig
        History, damping and stopping rule.

    Returns
    -------
    BatchSolution

    Raises
    ------
    NonFiniteError
        If f returns NaN or infinity for any sample.
    """
    active = _Samples.at(start)
    ended: list[_Samples] = []
    log = start.new_full((len(start), config.max_iterations), torch.nan, dtype=torch.float64)
    history, point = _History(start, config), start
    for evaluation in range(config.max_iterations):
        value = step(point)
        residual = _relative_residual(value, point, evaluation)
        log[active.index, evaluation] = residual
        rejected = active.judge(value, residual)
        history.push(value, value - point, cleared=rejected)
        finished = residual <= config.tolerance
        if bool(finished.any()):
            ended.append(active.take(finished))
            keep = torch.nonzero(~finished)[:, 0]
            active, rejected = active.take(keep), rejected[keep]
            if len(keep) == 0:
                break
            step = step.take(keep)
            history.take(keep)
        point = torch.where(rejected[:, None], active.resume(rejected), history.propose())
        active.bold = ~rejected & ((history.lengths() > 1) | (config.beta > 1.0))
    return _collect([*ended, active], log, config.tolerance)


def _collect(parts: list[_Samples], log: Tensor, tolerance: float) -> BatchSolution:
    """Put the samples back into the order of the batch."""
    order = torch.argsort(torch.cat([part.index for part in parts]))
    best = torch.cat([part.best for part in parts])[order]
    iterations = torch.isfinite(log).sum(dim=1)
    return BatchSolution(
        value=torch.cat([part.best_value for part in parts])[order],
        converged=best <= tolerance,
        residual=best,
        iterations=iterations,
        restarts=torch.cat([part.restarts for part in parts])[order],
        residuals=log[:, : int(iterations.max())],
    )


def _relative_residual(value: Tensor, point: Tensor, evaluation: int) -> Tensor:
    """||f(z) - z|| / (||f(z)|| + tiny) per sample in float64; raise if it is not finite."""
    difference = torch.linalg.vector_norm(value - point, dim=1, dtype=torch.float64)
    residual: Tensor = difference / (torch.linalg.vector_norm(value, dim=1, dtype=torch.float64) + TINY_NORM)
    bad = int((~torch.isfinite(residual)).sum())
    if bad:
        raise NonFiniteError(
            f"evaluation {evaluation + 1} of the fixed-point map gave NaN or infinity in {bad} of "
            f"{len(residual)} samples; expected finite values; lower the learning rate or check the data"
        )
    return residual
