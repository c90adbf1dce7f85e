"""DEQ-MPI for frames that follow each other in time: each solve begins where the one before ended."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from engine.fixed_point.solution import Solution
from engine.fixed_point.solve import FixedPointConfig, FixedPointSolver
from engine.machine.two_cores import Lanes
from engine.measurement.normalization import NormalizedMeasurement
from engine.networks.learned_blocks import Consistency, ImagePrior
from engine.operators.operators import Operators
from engine.solvers.deq.admm_step import AdmmStep
from engine.solvers.deq.warm_start import LastFrame, is_same_scene, warm_start

WARM_SHARE = 0.4
"""Evaluations of a frame that starts warm, as a share of those of a frame that starts alone."""


class EquilibriumSequence:
    """The fixed point of h_theta for one frame after the other (`engine.solvers.deq.warm_start`).

    The first frame, and any frame whose data differ too much from those of the frame before, is solved as by
    `Equilibrium`. The others start from the frame before and have `WARM_SHARE` of the evaluations. What is
    kept lasts from one call of `solve` to the next; `forget` ends a sequence.

    Buffers are reused, so an object serves one thread.

    Parameters
    ----------
    operators, prior, consistency, config, dual_start, lanes
        Parameters of `Equilibrium`.

    Raises
    ------
    PairingError
        If the grid has more than one slice.
    """

    method = "deq"

    def __init__(
        self,
        operators: Operators,
        prior: ImagePrior,
        consistency: Consistency,
        config: FixedPointConfig | None = None,
        dual_start: float = 0.0,
        lanes: Lanes | None = None,
    ) -> None:
        self.operators = operators
        self.config = config or FixedPointConfig()
        self._dual_start = dual_start
        self._step = AdmmStep(operators, prior, consistency, lanes)
        warm = replace(self.config, max_iterations=max(1, round(WARM_SHARE * self.config.max_iterations)))
        self._cold_solver = FixedPointSolver(self.config, self._step.measured)
        self._warm_solver = FixedPointSolver(warm, self._step.measured)
        self._last: LastFrame | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings in effect."""
        return self.config.to_dict() | {"dual_start": self._dual_start, "warm_start": True}

    def forget(self) -> None:
        """Start the next frame without the one before."""
        self._last = None

    def solve(self, measurements: Sequence[NormalizedMeasurement], /) -> list[Solution]:
        """Find the fixed points of measurements that follow each other; errors as `Equilibrium.solve`."""
        return self.solve_until(measurements, None)

    def solve_until(
        self, measurements: Sequence[NormalizedMeasurement], deadline: float | None
    ) -> list[Solution]:
        """Find the fixed points, or what is nearest to them at the deadline (`Equilibrium.solve_until`)."""
        return [self._solve(measurement, deadline) for measurement in measurements]

    def _solve(self, measurement: NormalizedMeasurement, deadline: float | None) -> Solution:
        last, self._last = self._last, None  # a solve that fails leaves nothing
        states = self._step.begin([measurement], self._dual_start)
        solver = self._cold_solver
        if last is not None and is_same_scene(measurement, last, self.operators):
            first = warm_start(measurement, last, self.operators, self._dual_start)
            states = self._step.states(first.image[None], first.data_dual[None], first.image_dual[None])
            solver = self._warm_solver
        (found,) = solver.solve(self._step, states, deadline)
        image, data_dual, image_dual = self._step.parts(found.value)
        self._last = LastFrame(measurement, image, image_dual, self.operators.left_singular @ data_dual)
        return replace(found, value=np.maximum(image, 0))
