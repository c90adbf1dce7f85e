"""The end-to-end method: one pass of the network over the least-squares image, no data consistency."""

import torch
from torch import Tensor

from engine.fixed_point.solve import FixedPointConfig
from trainer.data.linear_operators import TorchOperators
from trainer.data.noise import MeasuredBatch
from trainer.models.gradients import GradientStrategy
from trainer.models.reconstruction_model import ReconstructionModel


class EndToEndModel(ReconstructionModel):
    """x = Psi_RDN(x_LS); of the measurement it sees nothing but x_LS."""

    def forward(
        self,
        operators: TorchOperators,
        measurement: MeasuredBatch,
        _config: FixedPointConfig,
        _gradient: GradientStrategy,
        _precision: torch.dtype = torch.float32,
    ) -> tuple[Tensor, None]:
        """Return the images x (B, N), not negative, with their gradient."""
        return self._map_start(operators, measurement), None

    def reconstruct(
        self, operators: TorchOperators, measurement: MeasuredBatch, _config: FixedPointConfig
    ) -> tuple[Tensor, None]:
        """Return the images x (B, N), not negative, without a graph."""
        with torch.no_grad():
            return self._map_start(operators, measurement), None

    def _map_start(self, operators: TorchOperators, measurement: MeasuredBatch) -> Tensor:
        start = operators.least_squares(operators.project_left(measurement.rows))
        noise = measurement.noise.reshape(-1, 1, 1, 1)
        x: Tensor = self.rdn(operators.as_images(start), noise).flatten(1)
        return x
