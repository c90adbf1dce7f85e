"""The equilibrium without learned consistency: the ablation of the paper's Fig. 3."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.fixed_point import FixedPointConfig, solve_fixed_point
from engine.normalization import NormalizedMeasurement
from engine.operators import Operators
from engine.protocols import ImagePrior
from engine.solution import Solution
from engine.solvers.ball_step import BallStep
from engine.solvers.planar_grid import require_one_slice


class BallEquilibrium:
    """The fixed point of Psi_RDN and the projection on the l2 ball (Eqs. 5-9 with Eq. 10).

    As `Equilibrium`, but the data side is the projection, for which K + 1 coordinates of the data are exact
    (`BallStep`).

    Parameters
    ----------
    operators : Operators
        Of the system matrix; one slice (Nz = 1).
    prior : ImagePrior
        Psi_RDN.
    config : FixedPointConfig, optional
        Solver settings.
    dual_start : float, optional
        Size of the first data dual.

    Raises
    ------
    PairingError
        If the grid has more than one slice.
    """

    method = "deq-ball"

    def __init__(
        self,
        operators: Operators,
        prior: ImagePrior,
        config: FixedPointConfig | None = None,
        dual_start: float = 0.0,
    ) -> None:
        require_one_slice(operators)
        self._dual_start = dual_start
        self.operators = operators
        self.config = config or FixedPointConfig()
        self._step = BallStep(operators, prior)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings in effect."""
        return self.config.to_dict() | {"dual_start": self._dual_start}

    def solve(self, measurements: Sequence[NormalizedMeasurement], /) -> list[Solution]:
        """Find the fixed point of every measurement; errors as `Equilibrium.solve`."""
        return [self._solve(measurement) for measurement in measurements]

    def _solve(self, measurement: NormalizedMeasurement) -> Solution:
        (start,) = self._step.begin([measurement], self._dual_start)
        solution = solve_fixed_point(self._single, start, self.config)
        return replace(solution, value=np.maximum(solution.value[: self.operators.n_voxels], 0))

    def _single(self, z: NDArray[Any], out: NDArray[Any]) -> None:
        self._step(z[None], out[None])
