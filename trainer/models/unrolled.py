"""The unrolled method: a fixed number of ADMM steps, all of them tracked (Eq. 12)."""

import torch
from torch import Tensor

from engine.fixed_point.solve import FixedPointConfig
from trainer.data.linear_operators import TorchOperators
from trainer.data.noise import MeasuredBatch
from trainer.models.admm_step import AdmmStep
from trainer.models.gradients import GradientStrategy
from trainer.models.reconstruction_model import ReconstructionModel
from trainer.networks.consistency import BallProjection
from trainer.networks.rdn import ResidualDenseNetwork


class UnrolledModel(ReconstructionModel):
    """The image after N_it plain steps of Eqs. (5)-(9), with Psi_RDN as prior and the l2 ball (Eq. 10).

    All steps share the weights. N_it is `FixedPointConfig.max_iterations`, whatever the residual; a
    reconstruction may take more steps than the training did.

    Parameters
    ----------
    rdn : ResidualDenseNetwork
        Psi_RDN.
    """

    def __init__(self, rdn: ResidualDenseNetwork) -> None:
        super().__init__(rdn)
        self.ball = BallProjection()

    def forward(
        self,
        operators: TorchOperators,
        measurement: MeasuredBatch,
        config: FixedPointConfig,
        _gradient: GradientStrategy,
        _precision: torch.dtype = torch.float32,
    ) -> tuple[Tensor, None]:
        """Return the images x_N (B, N), not clipped, with the gradient through all steps."""
        return self._unroll(operators, measurement, config.max_iterations), None

    def reconstruct(
        self, operators: TorchOperators, measurement: MeasuredBatch, config: FixedPointConfig
    ) -> tuple[Tensor, None]:
        """Return the images x_N (B, N), not clipped, without a graph."""
        with torch.no_grad():
            return self._unroll(operators, measurement, config.max_iterations), None

    def _unroll(self, operators: TorchOperators, measurement: MeasuredBatch, count: int) -> Tensor:
        step = AdmmStep(self.rdn, self.ball, operators, measurement)
        state = step.start()
        for _ in range(count):
            state = step(state)
        x, _, _ = step.split(state)
        return x
