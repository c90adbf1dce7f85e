"""What all methods that learn have in common: weights that make images of measurements."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from engine.fixed_point.solve import FixedPointConfig
from trainer.data.linear_operators import TorchOperators
from trainer.data.noise import MeasuredBatch
from trainer.models.anderson import BatchSolution
from trainer.models.gradients import GradientStrategy
from trainer.networks.consistency import LearnedConsistency
from trainer.networks.rdn import ResidualDenseNetwork


class ReconstructionModel(nn.Module, ABC):
    """Networks, and how they make an image x of a measurement y.

    The networks stay in evaluation mode: a layer that changes from call to call would change the map
    during a solve.

    Parameters
    ----------
    rdn : ResidualDenseNetwork
        Psi_RDN, which every method has.
    """

    def __init__(self, rdn: ResidualDenseNetwork) -> None:
        super().__init__()
        self.rdn = rdn
        self.eval()

    @property
    def learned_consistency(self) -> LearnedConsistency | None:
        """Psi_LC; None for a method without."""
        return None

    @abstractmethod
    def forward(
        self,
        operators: TorchOperators,
        measurement: MeasuredBatch,
        config: FixedPointConfig,
        gradient: GradientStrategy,
        precision: torch.dtype = torch.float32,
    ) -> tuple[Tensor, BatchSolution | None]:
        """Reconstruct with a gradient for the weights.

        Parameters
        ----------
        operators : TorchOperators
        measurement : MeasuredBatch
            B samples.
        config : FixedPointConfig
            Bounds the iterations of a method that iterates.
        gradient : GradientStrategy
            How a method with a fixed point differentiates it.
        precision : torch.dtype, optional
            In which a method with a fixed point evaluates Psi_RDN while it solves.

        Returns
        -------
        x : Tensor, shape (B, N)
            Images, not clipped.
        solution : BatchSolution or None
            Account of the fixed-point solve; None for a method that solves none.
        """

    @abstractmethod
    def reconstruct(
        self, operators: TorchOperators, measurement: MeasuredBatch, config: FixedPointConfig
    ) -> tuple[Tensor, BatchSolution | None]:
        """Reconstruct without a graph; parameters and returns as in `forward`."""
