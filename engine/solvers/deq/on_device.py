"""DEQ-MPI with everything but the small Anderson system on a device."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.errors import BundleError
from engine.fixed_point.solution import Solution
from engine.fixed_point.solve import FixedPointConfig
from engine.fixed_point.solve_in_slots import slots_needed, solve_in_slots
from engine.measurement.normalization import NormalizedMeasurement, noise_bound
from engine.networks.bundle import Bundle
from engine.operators.operators import Operators
from engine.solvers.deq.device_step import DeviceStep


class ResidentEquilibrium:
    """Equilibrium as of `Equilibrium`, with one run of one graph per evaluation and the states on a device.

    The measurement and the start go there once per frame, the image comes back once; in between an evaluation
    exchanges a few numbers. Frames are solved one after the other; an object serves one thread.

    Parameters
    ----------
    graph : bytes
        Network "step" of a bundle.
    operators : Operators
        Operators of the system matrix; one slice (Nz = 1).
    config : FixedPointConfig
        Settings of the solver.
    dual_start : float, optional
        Size of the first data dual.
    device : str, optional
        Device: "cuda", or "cpu" for the same on the host.

    Raises
    ------
    PairingError, ProviderError, BundleError
        See `DeviceStep`.
    """

    method = "deq"

    def __init__(
        self,
        graph: bytes,
        operators: Operators,
        config: FixedPointConfig,
        dual_start: float = 0.0,
        device: str = "cuda",
    ) -> None:
        self.operators = operators
        self.config = config
        self._dual_start = dual_start
        self._step = DeviceStep(graph, operators, slots_needed(config), device)

    @classmethod
    def of_bundle(
        cls, bundle: Bundle, operators: Operators, config: FixedPointConfig, device: str = "cuda"
    ) -> "ResidentEquilibrium":
        """Open the step of a bundle.

        Raises
        ------
        BundleError
            If the bundle is of another method, or has no step.
        PairingError, ProviderError
            See `DeviceStep`.
        """
        bundle.require_method(cls.method)
        if "step" not in bundle.manifest.networks:
            raise BundleError(
                f"the bundle {bundle.path} has no step network; expected one to keep the states on the "
                f"device; add it: deqmpi-export add-step {bundle.path} NEW_BUNDLE"
            )
        try:
            return cls(bundle.read_network("step"), operators, config, bundle.manifest.dual_start, device)
        except BundleError as error:
            raise BundleError(f"{bundle.path / bundle.manifest.networks['step'].file}: {error}") from error

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings in effect: those of `Equilibrium`, for the images are the same."""
        return self.config.to_dict() | {"dual_start": self._dual_start}

    def solve(self, measurements: Sequence[NormalizedMeasurement], /) -> list[Solution]:
        """Find the fixed point of every measurement.

        Raises
        ------
        PairingError
            If the noise level of a measurement is not known.
        NonFiniteError
            If a network produces NaN or infinity.
        """
        return [self._solve(measurement) for measurement in measurements]

    def _solve(self, measurement: NormalizedMeasurement) -> Solution:
        self._step.set_measurement(measurement.y, noise_bound(measurement, self.operators))
        dual = measurement.data_dual(self._dual_start) if self._dual_start else None
        self._step.start(measurement.start, dual)
        solution = solve_in_slots(self._step, self.config)
        image = np.maximum(self._step.read_image(solution.slot), 0)
        return Solution(image, solution.result, solution.stats)
