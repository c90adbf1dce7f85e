"""The unrolled model: a fixed number of ADMM iterations around a network trained for that number."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.errors import ConfigError
from engine.fixed_point.plain_iteration import iterate_plain
from engine.fixed_point.solution import Result, Solution, SolveStats
from engine.measurement.normalization import NormalizedMeasurement
from engine.networks.learned_blocks import ImagePrior
from engine.operators.operators import Operators
from engine.solvers.admm.ball_step import BallStep
from engine.solvers.frame_solver import require_one_slice


class Unrolled:
    """Unrolled model: N_it iterations of Eqs. (5)-(9) from (x_LS, 0, 0), Psi_RDN and l2 ball (Eqs. 10, 12).

    Parameters
    ----------
    operators : Operators
        Operators of the system matrix; one slice (Nz = 1).
    prior : ImagePrior
        Network Psi_RDN.
    iterations : int
        Number N_it. The network was trained for one; others run too, at the cost of quality (Fig. 4).

    Raises
    ------
    ConfigError
        If there is no iteration to do.
    PairingError
        If the grid has more than one slice.
    """

    method = "unrolled"

    def __init__(self, operators: Operators, prior: ImagePrior, iterations: int) -> None:
        if iterations < 1:
            raise ConfigError(f"iterations is {iterations}; expected at least 1")
        require_one_slice(operators)
        self.operators = operators
        self.iterations = iterations
        self._step = BallStep(operators, prior)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings in effect."""
        return {"iterations": self.iterations}

    def solve(self, measurements: Sequence[NormalizedMeasurement], /) -> list[Solution]:
        """Run the iterations; errors as `Equilibrium.solve`."""
        start = self._step.begin(measurements)
        z, residuals, _ = iterate_plain(self._step, start, self.iterations, tolerance=0.0)
        images = np.maximum(z[:, : self.operators.n_voxels], 0)
        return [
            Solution(image, Result.FIXED_ITERATIONS, SolveStats(self.iterations, tuple(history)))
            for image, history in zip(images, residuals, strict=True)
        ]
