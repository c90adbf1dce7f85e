"""The equilibrium methods: solve z = h_theta(z) without a graph, then re-attach it for the gradient.

How to differentiate is a function handed in (`trainer.models.gradients`), apart from how to solve.
"""

import torch
from torch import Tensor

from engine.fixed_point.solve import FixedPointConfig
from trainer.data.linear_operators import TorchOperators
from trainer.data.noise import MeasuredBatch
from trainer.models.admm_step import AdmmStep
from trainer.models.anderson import BatchSolution, solve_batch
from trainer.models.gradients import GradientStrategy
from trainer.models.reconstruction_model import ReconstructionModel
from trainer.networks.consistency import BallProjection, LearnedConsistency
from trainer.networks.rdn import ResidualDenseNetwork
from trainer.networks.rdn_precision import RdnInPrecision


class EquilibriumModel(ReconstructionModel):
    """The fixed point of h_theta (Eqs. 13-17).

    Parameters
    ----------
    rdn : ResidualDenseNetwork
        Psi_RDN.
    lc : LearnedConsistency or BallProjection
        Psi_LC, or the projection on the l2 ball in its place.
    dual_start : float, optional
        Size of the first data dual; see `AdmmStep.start`.
    """

    def __init__(
        self, rdn: ResidualDenseNetwork, lc: LearnedConsistency | BallProjection, dual_start: float = 0.0
    ) -> None:
        super().__init__(rdn)
        self.lc = lc
        self.dual_start = dual_start
        self.eval()

    @property
    def learned_consistency(self) -> LearnedConsistency | None:
        """Psi_LC; None with the projection in its place."""
        return self.lc if isinstance(self.lc, LearnedConsistency) else None

    def step(
        self, operators: TorchOperators, measurement: MeasuredBatch, precision: torch.dtype = torch.float32
    ) -> AdmmStep:
        """Return h_theta for B measurements.

        With another `precision` of Psi_RDN's convolutions (`trainer.networks.rdn_precision`) the map has no
        gradient for the weights.
        """
        own = precision == torch.float32
        prior = self.rdn if own else RdnInPrecision(self.rdn, precision)
        return AdmmStep(prior, self.lc, operators, measurement, self.dual_start)

    def solve(
        self, operators: TorchOperators, measurement: MeasuredBatch, config: FixedPointConfig
    ) -> BatchSolution:
        """Find the fixed points of B measurements without a graph; the values are states (B, N + R + N)."""
        step = self.step(operators, measurement)
        return solve_batch(step, step.start(), config)

    def forward(
        self,
        operators: TorchOperators,
        measurement: MeasuredBatch,
        config: FixedPointConfig,
        gradient: GradientStrategy,
        precision: torch.dtype = torch.float32,
    ) -> tuple[Tensor, BatchSolution]:
        """Reconstruct with a gradient for the weights.

        Parameters
        ----------
        operators : TorchOperators
        measurement : MeasuredBatch
            B samples.
        config : FixedPointConfig
            Of the forward solve.
        gradient : GradientStrategy
            `one_step`, `ThroughIterates(count)` or `Implicit(config, report)`.
        precision : torch.dtype, optional
            Of Psi_RDN's convolutions in the solves; see `step`.

        Returns
        -------
        x : Tensor, shape (B, N)
            Image part of h_theta at the fixed point (Eq. 13), not clipped.
        solution : BatchSolution
            Account of the forward solve.
        """
        step = self.step(operators, measurement)
        rounded = None if precision == torch.float32 else self.step(operators, measurement, precision)
        solution = solve_batch(rounded or step, step.start(), config)
        x, _, _ = step.split(gradient(step, solution.value, rounded))
        return x, solution

    def reconstruct(
        self, operators: TorchOperators, measurement: MeasuredBatch, config: FixedPointConfig
    ) -> tuple[Tensor, BatchSolution]:
        """Return the images x (B, N) of the fixed points, not clipped, and the account of the solve."""
        solution = self.solve(operators, measurement, config)
        return solution.value[:, : operators.n_voxels], solution
