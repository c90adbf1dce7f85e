"""DEQ-MPI: the fixed point of the two networks inside ADMM."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from engine.fixed_point.solution import Solution
from engine.fixed_point.solve import FixedPointConfig, FixedPointSolver
from engine.machine.two_cores import Lanes, OneLane
from engine.measurement.normalization import NormalizedMeasurement
from engine.networks.learned_blocks import Consistency, ImagePrior
from engine.operators.operators import Operators
from engine.solvers.deq.admm_step import AdmmStep


class Equilibrium:
    """The fixed point of h_theta (Eqs. 14-17) for the measurement at hand.

    The state starts at (x_LS, d0, 0) with the data dual of `NormalizedMeasurement.data_dual`; the image is
    max(x, 0) of the best iterate. Frames that are solved together share the products and the calls of the
    networks, and leave the work one by one as they converge. With two lanes a single frame has its data and
    its image worked on side by side, and of several frames each lane takes half.

    Buffers are reused, so an object serves one thread.

    Parameters
    ----------
    operators : Operators
        Operators of the system matrix; one slice (Nz = 1).
    prior : ImagePrior
        Network Psi_RDN: an `OnnxPrior` or any callable of that shape; with two lanes it has to allow calls
        from two threads.
    consistency : Consistency
        Network Psi_LC: an `OnnxConsistency` or any callable of that shape, as the prior.
    config : FixedPointConfig, optional
        Settings of the solver.
    dual_start : float, optional
        Size of the first data dual.
    lanes : Lanes, optional
        Cores to use; one by default.

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
        self._lanes = lanes or OneLane()

        def loop(lanes: Lanes) -> _Loop:
            step = AdmmStep(operators, prior, consistency, lanes)
            return _Loop(step, FixedPointSolver(self.config, step.measured), dual_start)

        self._whole = loop(self._lanes)
        self._halves = [loop(OneLane()) for _ in range(2)] if self._lanes.count > 1 else []

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings in effect."""
        return self.config.to_dict() | {"dual_start": self._dual_start}

    def solve(self, measurements: Sequence[NormalizedMeasurement], /) -> list[Solution]:
        """Find the fixed point of every measurement; see `solve_until`."""
        return self.solve_until(measurements, None)

    def solve_until(
        self, measurements: Sequence[NormalizedMeasurement], deadline: float | None
    ) -> list[Solution]:
        """Find the fixed point of every measurement, or what is nearest to it at the deadline.

        Parameters
        ----------
        measurements : sequence of NormalizedMeasurement
            Measurements, none of them zero.
        deadline : float or None
            Deadline on the clock `time.perf_counter`; see `FixedPointSolver.solve`.

        Raises
        ------
        PairingError
            If the noise level of a measurement is not known.
        NonFiniteError
            If a network produces NaN or infinity.
        ConfigError
            If there is not enough memory for so many frames.
        """
        if not measurements:
            return []
        if len(measurements) < 2 or not self._halves:
            return self._whole.solve(measurements, deadline)
        middle = (len(measurements) + 1) // 2
        shares = [measurements[:middle], measurements[middle:]]
        found: list[list[Solution]] = [[], []]

        def share(number: int) -> None:
            found[number] = self._halves[number].solve(shares[number], deadline)

        self._lanes.both(lambda: share(0), lambda: share(1))
        return found[0] + found[1]


class _Loop:
    """A step with its buffers and the solver with its histories."""

    def __init__(self, step: AdmmStep, solver: FixedPointSolver, dual_start: float) -> None:
        self._step = step
        self._solver = solver
        self._dual_start = dual_start

    def solve(self, measurements: Sequence[NormalizedMeasurement], deadline: float | None) -> list[Solution]:
        states = self._step.begin(measurements, self._dual_start)
        solutions = self._solver.solve(self._step, states, deadline)
        n_voxels = self._step.n_voxels
        return [replace(found, value=np.maximum(found.value[:n_voxels], 0)) for found in solutions]
