"""The equilibrium methods: solve z = h_theta(z) without a graph, then re-attach it for the gradient.

How to differentiate is a function handed in (`trainer.gradients`), apart from how to solve.
"""

import torch
from torch import Tensor

from engine.fixed_point import FixedPointConfig
from trainer.admm_step import AdmmStep
from trainer.anderson import BatchSolution, solve_batch
from trainer.consistency import BallProjection, LearnedConsistency
from trainer.gradients import GradientStrategy
from trainer.linear_operators import TorchOperators
from trainer.noise import Measurement
from trainer.rdn import ResidualDenseNetwork
from trainer.reconstruction_model import ReconstructionModel


class EquilibriumModel(ReconstructionModel):
    """The fixed point of h_theta (Eqs. 13-17).

    Parameters
    ----------
    rdn : ResidualDenseNetwork
        Psi_RDN.
    lc : LearnedConsistency or BallProjection
        Psi_LC, or the projection on the l2 ball in its place.
    """

    def __init__(self, rdn: ResidualDenseNetwork, lc: LearnedConsistency | BallProjection) -> None:
        super().__init__(rdn)
        self.lc = lc
        self.eval()

    @property
    def learned_consistency(self) -> LearnedConsistency | None:
        """Psi_LC; None with the projection in its place."""
        return self.lc if isinstance(self.lc, LearnedConsistency) else None

    def solve(
        self, operators: TorchOperators, measurement: Measurement, config: FixedPointConfig
    ) -> BatchSolution:
        """Find the fixed points of B measurements without a graph; the values are states (B, N + R + N)."""
        step = AdmmStep(self.rdn, self.lc, operators, measurement)
        with torch.no_grad():
            return solve_batch(step, step.start(), config)

    def forward(
        self,
        operators: TorchOperators,
        measurement: Measurement,
        config: FixedPointConfig,
        gradient: GradientStrategy,
    ) -> tuple[Tensor, BatchSolution]:
        """Reconstruct with a gradient for the weights.

        Parameters
        ----------
        operators : TorchOperators
        measurement : Measurement
            B samples.
        config : FixedPointConfig
            Of the forward solve.
        gradient : GradientStrategy
            `one_step`, `ThroughIterates(count)` or `Implicit(config, report)`.

        Returns
        -------
        x : Tensor, shape (B, N)
            Image part of h_theta at the fixed point (Eq. 13), not clipped.
        solution : BatchSolution
            Account of the forward solve.
        """
        solution = self.solve(operators, measurement, config)
        step = AdmmStep(self.rdn, self.lc, operators, measurement)
        x, _, _ = step.split(gradient(step, solution.value))
        return x, solution

    def reconstruct(
        self, operators: TorchOperators, measurement: Measurement, config: FixedPointConfig
    ) -> tuple[Tensor, BatchSolution]:
        """Return the images x (B, N) of the fixed points, not clipped, and the account of the solve."""
        solution = self.solve(operators, measurement, config)
        return solution.value[:, : operators.n_voxels], solution
