"""DEQ-MPI with everything but the small Anderson system on a device."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from engine.errors import BundleError
from engine.fixed_point.solution import Solution
from engine.fixed_point.solve import FixedPointConfig
from engine.fixed_point.solve_in_slots import slots_needed, solve_in_slots
from engine.measurement.normalization import NormalizedMeasurement, noise_bound
from engine.networks.bundle import Bundle
from engine.networks.sessions import NATIVE_TENSORRT
from engine.operators.operators import Operators
from engine.solvers.deq.device_step import DeviceStep
from engine.solvers.deq.onnx_step_runner import OnnxStepRunner
from engine.solvers.deq.plan_step_runner import PlanStepRunner
from engine.solvers.deq.step_runner import StepRunner

OpenStep = Callable[[Operators, int], StepRunner]
"""Opens a step for operators and a number of slots."""


class ResidentEquilibrium:
    """Equilibrium as of `Equilibrium`, with one run of one graph per evaluation and the states on a device.

    The measurement and the start go there once per frame, the image comes back once; in between an evaluation
    exchanges a few numbers. Frames are solved one after the other; an object serves one thread.

    Parameters
    ----------
    open_step : callable
        Opens the step, such as `partial(OnnxStepRunner, graph, "cuda")`.
    operators : Operators
        Operators of the system matrix; one slice (Nz = 1).
    config : FixedPointConfig
        Settings of the solver.
    dual_start : float, optional
        Size of the first data dual.

    Raises
    ------
    PairingError, ProviderError, BundleError
        See `OnnxStepRunner` and `PlanStepRunner`.
    """

    method = "deq"

    def __init__(
        self, open_step: OpenStep, operators: Operators, config: FixedPointConfig, dual_start: float = 0.0
    ) -> None:
        self.operators = operators
        self.config = config
        self._dual_start = dual_start
        self._step = DeviceStep(open_step(operators, slots_needed(config)), operators)

    @classmethod
    def of_bundle(
        cls, bundle: Bundle, operators: Operators, config: FixedPointConfig, provider: str = "cuda"
    ) -> "ResidentEquilibrium":
        """Open the step of a bundle.

        Parameters
        ----------
        bundle : Bundle
            Of the method deq, with a network "step".
        operators, config
            As for the class.
        provider : str, optional
            What runs it: "cuda", "tensorrt-native" with its plan, or "cpu" for the same on the host.

        Raises
        ------
        BundleError
            If the bundle is of another method, or has no step.
        PairingError, ProviderError
            See `OnnxStepRunner` and `PlanStepRunner`.
        """
        bundle.require_method(cls.method)
        if "step" not in bundle.manifest.networks:
            raise BundleError(
                f"the bundle {bundle.path} has no step network; expected one to keep the states on the "
                f"device; add it: deqmpi-export add-step {bundle.path} NEW_BUNDLE"
            )
        dual_start = bundle.manifest.dual_start
        if provider == NATIVE_TENSORRT:
            return cls(partial(PlanStepRunner, bundle), operators, config, dual_start)
        open_step = partial(OnnxStepRunner, bundle.networks["step"], provider)
        try:
            return cls(open_step, operators, config, dual_start)
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
        DeviceError
            If a GPU reports an error through TensorRT.
        """
        return [self._solve(measurement) for measurement in measurements]

    def _solve(self, measurement: NormalizedMeasurement) -> Solution:
        self._step.set_measurement(measurement.y, noise_bound(measurement, self.operators))
        dual = measurement.data_dual(self._dual_start) if self._dual_start else None
        self._step.start(measurement.start, dual)
        solution = solve_in_slots(self._step, self.config)
        image = np.maximum(self._step.read_image(solution.slot), 0)
        return Solution(image, solution.result, solution.stats)
