"""The equilibrium without learned consistency: the ablation of the paper's Fig. 3."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from engine.fixed_point.solution import Solution
from engine.fixed_point.solve import FixedPointConfig, FixedPointSolver
from engine.measurement.normalization import NormalizedMeasurement
from engine.networks.learned_blocks import ImagePrior
from engine.operators.operators import Operators
from engine.solvers.admm.ball_step import BallStep
from engine.solvers.frame_solver import require_one_slice


class BallEquilibrium:
    """The fixed point of Psi_RDN and the projection on the l2 ball (Eqs. 5-9 with Eq. 10).

    It is `Equilibrium` with the projection as data side, for which K + 1 coordinates of the data are exact
    (`BallStep`).

    Parameters
    ----------
    operators : Operators
        Operators of the system matrix; one slice (Nz = 1).
    prior : ImagePrior
        Network Psi_RDN.
    config : FixedPointConfig, optional
        Settings of the solver.
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
        self._iteration = FixedPointSolver(self.config)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings in effect."""
        return self.config.to_dict() | {"dual_start": self._dual_start}

    def solve(self, measurements: Sequence[NormalizedMeasurement], /) -> list[Solution]:
        """Find the fixed point of every measurement; errors as `Equilibrium.solve`."""
        if not measurements:
            return []
        starts = self._step.begin(measurements, self._dual_start)
        solutions = self._iteration.solve(self._step, starts)
        n_voxels = self.operators.n_voxels
        return [replace(found, value=np.maximum(found.value[:n_voxels], 0)) for found in solutions]
