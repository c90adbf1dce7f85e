"""ADMM with hand-crafted image priors: the paper's opponents admm-l1, admm-tv and admm-hybrid."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.arrays import Float32Array
from engine.fixed_point.plain_iteration import iterate_plain
from engine.fixed_point.solution import Solution
from engine.measurement.normalization import NormalizedMeasurement
from engine.networks.learned_blocks import ImagePrior
from engine.operators.operators import Operators
from engine.solvers.admm.ball_step import BallStep
from engine.solvers.admm.proximal import prox_hybrid, prox_l1, prox_tv
from engine.solvers.frame_solver import require_one_slice
from engine.solvers.regularization import MethodWeights
from engine.solvers.weighted_frames import (
    check_tolerance,
    check_weights,
    solution_per_frame,
    weights_per_frame,
)

TOLERANCE = 1e-4
"""Relative change of the state at which a frame ends, as in `FixedPointConfig`."""

PROX_TOLERANCE = 1e-3
"""Certain relative error of one total variation denoising. Each starts from the last one's dual, so errors
do not add up: 100 iterations end within 3e-4 of those with exact denoising, in a third of 1e-4's time."""

PROX_ITERATIONS = 1000
"""Most iterations of one denoising, which bound its time; the next one goes on where it stopped."""

FrameWeights = Mapping[str, NDArray[np.float64]]
"""The weights by their names, one value per frame, float64 (F,)."""


class Admm(ABC):
    """ADMM of Eqs. (5)-(9) with the l2 ball of Eq. (10), plain iterations from (x_LS, 0, 0).

    The weights of the prior are alpha / mu of Eq. (11). The problem's solution depends only on their ratio;
    their size sets how fast the iteration gets there, and so the image after a number of iterations too small
    to get there. The image is max(x, 0) of the last iterate: x is what the data agree with (the prior's z1
    differs by at most 0.01 dB in pSNR), and the learned methods give the same.

    Parameters
    ----------
    operators : Operators
        Operators of the system matrix.
    weights : MethodWeights
        Weights by the SNR of a measurement, and the number of iterations.
    tolerance : float, optional
        Relative change of the state (image and duals) at which a frame ends early.

    Raises
    ------
    ConfigError
        If the weights are not those of the method, or the tolerance is negative.
    """

    method: str
    weight_names: tuple[str, ...]

    def __init__(self, operators: Operators, weights: MethodWeights, tolerance: float = TOLERANCE) -> None:
        check_weights(self.method, weights, *self.weight_names)
        check_tolerance(tolerance)
        self.operators = operators
        self.weights = weights
        self.tolerance = tolerance

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings in effect."""
        return {"iterations": self.weights.iterations, "tolerance": self.tolerance}

    @abstractmethod
    def _prior(self, weights: FrameWeights) -> ImagePrior:
        """Return Psi_R of Eq. (6) for one solve of as many frames as there are weights."""

    def solve(self, measurements: Sequence[NormalizedMeasurement], /) -> list[Solution]:
        """Iterate on all measurements together.

        Raises
        ------
        PairingError
            If the noise level of a measurement is not known.
        NonFiniteError
            If an iterate is NaN or infinite.
        """
        weights = weights_per_frame(self.weights, measurements)
        by_name = {name: np.array([frame[name] for frame in weights]) for name in self.weights.curves}
        step = BallStep(self.operators, self._prior(by_name))
        start = step.begin(measurements)
        states, residuals, _ = iterate_plain(step, start, self.weights.iterations, self.tolerance)
        images = np.maximum(states[:, : self.operators.n_voxels], 0)
        return solution_per_frame(images, residuals, self.tolerance, self.weights, measurements)


class AdmmL1(Admm):
    """ADMM with R(x) = alpha ||x||_1: weight "l1". The only one for volumes (Nz > 1) too."""

    method = "admm-l1"
    weight_names = ("l1",)

    def _prior(self, weights: FrameWeights) -> ImagePrior:
        def threshold(v: Float32Array, _noise: Float32Array) -> NDArray[np.floating]:
            # Each voxel by itself, so the slices of a volume may as well lie one below the other.
            return prox_l1(v.reshape(len(v), -1, v.shape[-1]), weights["l1"]).reshape(v.shape)

        return threshold


class PlanarAdmm(Admm):
    """An `Admm` whose image prior is two-dimensional: PairingError for a grid of more than one slice."""

    def __init__(self, operators: Operators, weights: MethodWeights, tolerance: float = TOLERANCE) -> None:
        require_one_slice(operators)
        super().__init__(operators, weights, tolerance)


class AdmmTv(PlanarAdmm):
    """ADMM with R(x) = alpha TV(x): weight "tv"."""

    method = "admm-tv"
    weight_names = ("tv",)

    def _prior(self, weights: FrameWeights) -> ImagePrior:
        dual = _zero_dual(self.operators, len(weights["tv"]))
        return lambda v, _noise: prox_tv(
            v[:, 0], weights["tv"], tolerance=PROX_TOLERANCE, max_iterations=PROX_ITERATIONS, dual=dual
        )[:, None]


class AdmmHybrid(PlanarAdmm):
    """ADMM with R(x) = alpha_1 ||x||_1 + alpha_TV TV(x): weights "l1" and "tv"."""

    method = "admm-hybrid"
    weight_names = ("l1", "tv")

    def _prior(self, weights: FrameWeights) -> ImagePrior:
        dual = _zero_dual(self.operators, len(weights["tv"]))
        return lambda v, _noise: prox_hybrid(
            v[:, 0],
            weights["l1"],
            weights["tv"],
            tolerance=PROX_TOLERANCE,
            max_iterations=PROX_ITERATIONS,
            dual=dual,
        )[:, None]


def _zero_dual(operators: Operators, n_frames: int) -> NDArray[np.float64]:
    _, ny, nx = operators.grid.volume_shape
    return np.zeros((n_frames, 2, ny, nx))
