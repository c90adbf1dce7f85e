"""PP-MPI: ADMM whose image prior is a network trained to denoise."""

import numpy as np

from engine.arrays import Float32Array
from engine.networks.learned_blocks import ImagePrior
from engine.operators.operators import Operators
from engine.solvers.admm.hand_crafted import TOLERANCE, FrameWeights, PlanarAdmm
from engine.solvers.regularization import MethodWeights


class PlugAndPlay(PlanarAdmm):
    """Plug-and-play ADMM: Psi_R(v) = scale D(v / scale) with a denoiser D: weight "scale".

    A denoiser trained on images of peak 1 with noise of one level removes `scale` times that noise from
    images of peak `scale`: the larger the scale, the stronger the prior. 1 is the denoiser as trained.

    Parameters
    ----------
    operators : Operators
        Operators of the system matrix; one slice (Nz = 1).
    prior : ImagePrior
        Denoiser D.
    weights : MethodWeights
        Weights by the SNR of a measurement, and the number of iterations.
    tolerance : float, optional
        Relative change of the state (image and duals) at which a frame ends early.

    Raises
    ------
    ConfigError
        If the weights are not those of the method, or the tolerance is negative.
    PairingError
        If the grid has more than one slice.
    """

    method = "pp-mpi"
    weight_names = ("scale",)

    def __init__(
        self,
        operators: Operators,
        prior: ImagePrior,
        weights: MethodWeights,
        tolerance: float = TOLERANCE,
    ) -> None:
        super().__init__(operators, weights, tolerance)
        self._denoiser = prior

    def _prior(self, weights: FrameWeights) -> ImagePrior:
        scale = weights["scale"].astype(np.float32)[:, None, None, None]
        if np.all(scale == 1):
            return self._denoiser
        denoiser = self._denoiser

        def scaled(v: Float32Array, noise: Float32Array) -> Float32Array:
            return np.asarray(scale * denoiser(v / scale, noise), np.float32)

        return scaled
