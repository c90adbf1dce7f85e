"""The learned blocks of a method, as torch networks or as ONNX graphs, behind the engine's solvers."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.fixed_point.solve import FixedPointConfig
from engine.networks.bundle import Bundle
from engine.networks.learned_blocks import Consistency, ImagePrior
from engine.networks.sessions import OnnxConsistency, OnnxPrior
from engine.operators.operators import Operators
from engine.solvers.admm.ball_equilibrium import BallEquilibrium
from engine.solvers.admm.plug_and_play import PlugAndPlay
from engine.solvers.admm.unrolled import Unrolled
from engine.solvers.deq.equilibrium import Equilibrium
from engine.solvers.end_to_end import EndToEnd
from engine.solvers.frame_solver import FrameSolver
from engine.solvers.regularization import MethodWeights, SnrCurve
from export.errors import ExportError

Network = Callable[..., NDArray[Any]]


AS_TRAINED = SnrCurve.constant(1.0)
"""The scale that leaves a denoiser as it was trained."""


@dataclass(frozen=True)
class LearnedBlocks:
    """What the engine's solvers call of a model.

    Attributes
    ----------
    prior : ImagePrior
        Psi_RDN.
    consistency : Consistency or None
        Psi_LC, for the method that has one.
    """

    prior: ImagePrior
    consistency: Consistency | None

    @classmethod
    def of_networks(cls, rdn: nn.Module, lc: nn.Module | None) -> "LearnedBlocks":
        """Wrap copies of torch networks; they run on the CPU."""
        prior = as_callable(rdn if getattr(rdn, "takes_noise", False) else _WithoutNoise(rdn))
        return cls(prior, None if lc is None else as_callable(lc))

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> "LearnedBlocks":
        """Open the graphs of a bundle with ONNX Runtime on the CPU."""
        has_lc = "lc" in bundle.manifest.networks
        return cls(OnnxPrior(bundle), OnnxConsistency(bundle) if has_lc else None)


class _WithoutNoise(nn.Module):
    """An image prior of images alone, called as one that takes the noise level too."""

    def __init__(self, rdn: nn.Module) -> None:
        super().__init__()
        self.rdn = rdn

    def forward(self, v: Tensor, _noise: Tensor) -> Tensor:
        regularised: Tensor = self.rdn(v)
        return regularised


def as_callable(module: nn.Module) -> Network:
    """Wrap a copy of a torch module as a function of float32 arrays, for the engine's solvers."""
    network = copy.deepcopy(module).cpu().eval()

    def call(*inputs: NDArray[np.float32]) -> NDArray[Any]:
        with torch.no_grad():
            # Copies: the engine reuses its arrays, and torch may return a view of an input.
            result: NDArray[Any] = network(*(torch.tensor(value) for value in inputs)).numpy()
        return result

    return call


def open_solver(
    method: str,
    operators: Operators,
    blocks: LearnedBlocks,
    config: FixedPointConfig | None,
    dual_start: float = 0.0,
) -> FrameSolver:
    """Put learned blocks into the engine's solver of their method.

    Parameters
    ----------
    method : str
        One of `engine.reconstruction.methods.METHODS` that has networks.
    operators : Operators
        Of the system matrix.
    blocks : LearnedBlocks
        The blocks that the method has.
    config : FixedPointConfig or None
        Solver settings; unused by a method that does not iterate.
    dual_start : float, optional
        Of an equilibrium method.

    Raises
    ------
    ExportError
        If the method needs a block or settings that are not given, or is unknown.
    """
    if method == EndToEnd.method:
        return EndToEnd(operators, blocks.prior)
    if config is not None:
        if method == Equilibrium.method and blocks.consistency is not None:
            return Equilibrium(operators, blocks.prior, blocks.consistency, config, dual_start)
        if method == BallEquilibrium.method:
            return BallEquilibrium(operators, blocks.prior, config, dual_start)
        if method == Unrolled.method:
            return Unrolled(operators, blocks.prior, config.max_iterations)
        if method == PlugAndPlay.method:
            weights = MethodWeights({"scale": AS_TRAINED}, config.max_iterations)
            return PlugAndPlay(operators, blocks.prior, weights, config.tolerance)
    raise ExportError(
        f"method {method!r} with solver settings {config} and data consistency {blocks.consistency}; "
        "expected a method of networks with what it iterates: check the arguments of the export"
    )
