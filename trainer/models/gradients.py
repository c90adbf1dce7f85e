"""How to differentiate a fixed point that was found without a graph.

A strategy takes the map and its detached fixed point and returns a state of (nearly) the same value that
carries a gradient for the weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from engine.fixed_point.solve import FixedPointConfig
from trainer.models.anderson import BatchMap, BatchSolution, solve_batch


class GradientStrategy(Protocol):
    """How to give a fixed point its gradient."""

    def __call__(self, step: BatchMap, state: Tensor, solved: BatchMap | None = None, /) -> Tensor:
        """Re-attach a fixed point.

        Parameters
        ----------
        step : BatchMap
            The map, with a gradient for the weights.
        state : Tensor, shape (B, n)
            Its fixed point.
        solved : BatchMap, optional
            The map that was solved, where it is another: the same in a lower precision.

        Returns
        -------
        Tensor, shape (B, n)
        """
        ...


REBUILD_SHARE = 0.5
"""The graph of a vector-Jacobian product is rebuilt once fewer samples than this share are left in it."""


def one_step(step: BatchMap, state: Tensor, _solved: BatchMap | None = None, /) -> Tensor:
    """Re-attach with one tracked step: the Jacobian-free gradient, (I - J)^-1 replaced by I in Eq. (29)."""
    return step(state.detach())


@dataclass(frozen=True)
class ThroughIterates:
    """Re-attach with several tracked steps: the first `count` terms of the Neumann series of (I - J)^-1."""

    count: int

    def __call__(self, step: BatchMap, state: Tensor, _solved: BatchMap | None = None, /) -> Tensor:
        """Apply `count` tracked steps from the fixed point."""
        state = state.detach()
        for _ in range(self.count):
            state = step(state)
        return state


@dataclass(frozen=True)
class Implicit:
    """Re-attach with one tracked step whose backward pass solves s = J^T s + b (Eqs. 31-33).

    Attributes
    ----------
    config : FixedPointConfig
        Tolerance and budget of the backward solve.
    report : callable
        Receives the `BatchSolution` of every backward solve; where it did not converge, its best iterate
        is what the gradient uses.
    """

    config: FixedPointConfig
    report: Callable[[BatchSolution], None]

    def __call__(self, step: BatchMap, state: Tensor, solved: BatchMap | None = None, /) -> Tensor:
        """Attach the implicit gradient; the products of the backward solve are those of `solved`."""
        jacobian = _TransposedJacobian.at(step if solved is None else solved, state)
        output = jacobian.output if solved is None else step(state.detach())

        def solve(cotangent: Tensor) -> Tensor:
            solution = solve_batch(jacobian.shifted_by(cotangent), cotangent, self.config)
            self.report(solution)
            return solution.value

        attached: Tensor = _TransformGradient.apply(output, solve)  # type: ignore[no-untyped-call]
        return attached


class _TransformGradient(torch.autograd.Function):
    """Identity whose backward pass applies a function to the incoming gradient."""

    @staticmethod
    def forward(ctx: FunctionCtx, value: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.transform = transform  # type: ignore[attr-defined]
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.transform(gradient), None  # type: ignore[attr-defined]


@dataclass(frozen=True)
class _TransposedJacobian:
    """The map s -> J^T s + b at a fixed point, over the recorded graph of one step (Eq. 32).

    `samples` says which samples of the graph's batch are still asked for: J is block diagonal over the
    batch, so the others get a zero vector until dropping them pays for recording a smaller graph.
    """

    step: BatchMap
    state: Tensor
    output: Tensor
    samples: Tensor
    shift: Tensor

    @classmethod
    def at(cls, step: BatchMap, state: Tensor) -> "_TransposedJacobian":
        point = state.detach().requires_grad_()
        with torch.enable_grad():
            output = step(point)
        everyone = torch.arange(len(point), device=point.device)
        return cls(step, point, output, everyone, torch.zeros_like(point))

    def shifted_by(self, shift: Tensor) -> "_TransposedJacobian":
        return _TransposedJacobian(self.step, self.state, self.output, self.samples, shift)

    def __call__(self, s: Tensor) -> Tensor:
        complete = len(self.samples) == len(self.state)
        vector = s if complete else torch.zeros_like(self.state).index_copy(0, self.samples, s)
        (product,) = torch.autograd.grad(self.output, self.state, vector, retain_graph=True)
        return (product if complete else product[self.samples]) + self.shift

    def take(self, samples: Tensor) -> "_TransposedJacobian":
        left, shift = self.samples[samples], self.shift[samples]
        if len(left) < REBUILD_SHARE * len(self.state):
            smaller = _TransposedJacobian.at(self.step.take(left), self.state.detach()[left])
            return smaller.shifted_by(shift)
        return _TransposedJacobian(self.step, self.state, self.output, left, shift)
