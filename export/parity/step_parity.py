"""Does `step.onnx` compute what the engine computes with the same networks? Measured, then judged.

The other side is the engine's own iteration on the CPU, whose networks are the bundle's: equations, order and
precision are independent of the graph. One evaluation agrees to rounding; whole solves are compared too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.fixed_point.safeguard import TINY_NORM
from engine.fixed_point.solve import FixedPointConfig
from engine.fixed_point.solve_in_slots import START_SLOT, Evaluation
from engine.measurement.normalization import noise_bound, normalize
from engine.reconstruction.reconstructor import Reconstructor
from engine.solvers.deq.admm_step import AdmmStep
from engine.solvers.deq.device_step import DeviceStep
from engine.solvers.deq.equilibrium import Equilibrium
from engine.solvers.deq.on_device import ResidentEquilibrium
from engine.solvers.deq.onnx_step_runner import OnnxStepRunner
from export.errors import ExportError, ParityError
from export.parity.learned_blocks import LearnedBlocks
from export.parity.parity import IMAGE_TOLERANCE, ITERATION_TOLERANCE, beyond_limits, relative_error
from export.parity.parity_problem import ParityProblem

EVALUATION_TOLERANCE = 5e-5
"""The mixture of the states and A x are formed in single precision here and in double precision, or directly,
by the engine; weights of size 2 and a spectral norm of 25 amplify rounding of 6e-8: 1e-5 seen."""

EVALUATIONS = 5
"""Evaluations compared per frame, each at a mixture of all states before it."""

DAMPING = 0.3
"""1 - beta of the evaluations compared; whole solves mostly have 0, which hides it."""

WEIGHT_SPREAD = 2.0
"""Size of the random weights, which sum to 1 and partly cancel as those of Anderson do."""


@dataclass(frozen=True)
class StepParityReport:
    """Largest differences between the step graph and the engine's own iteration.

    Attributes
    ----------
    evaluation : float
        States after one evaluation, relative to the largest value of x, of d0 and of d1, and its inner
        products, relative to the norms.
    image : float
        Reconstructed images, relative to the peak of each.
    iterations : tuple of (int, int)
        Evaluations per frame: of the engine's iteration, with the step graph.
    """

    evaluation: float
    image: float
    iterations: tuple[tuple[int, int], ...]

    def require(self) -> None:
        """Raise unless every difference is within its tolerance.

        Raises
        ------
        ParityError
            Naming each figure and its limit.
        """
        limits = {
            "evaluation": (self.evaluation, EVALUATION_TOLERANCE),
            "image": (self.image, IMAGE_TOLERANCE),
            "iterations": (max(abs(a - b) for a, b in self.iterations), ITERATION_TOLERANCE),
        }
        failed = beyond_limits(limits)
        if failed:
            raise ParityError(
                f"the step graph differs from the engine's iteration: {failed}; no step was "
                "written: compare the version of onnxruntime with the supported ones"
            )

    def __str__(self) -> str:
        iterations = ", ".join(f"{a}/{b}" for a, b in self.iterations)
        return (
            f"one evaluation within {self.evaluation:.1e}, images within {self.image:.1e} of their largest "
            f"value; iterations {iterations}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain values for a manifest."""
        return {
            "evaluation": self.evaluation,
            "image": self.image,
            "iterations": [list(pair) for pair in self.iterations],
        }


def measure_step_parity(
    graph: bytes, blocks: LearnedBlocks, problem: ParityProblem, solver: FixedPointConfig, dual_start: float
) -> StepParityReport:
    """Compare a step graph with the engine's iteration, both on the CPU.

    Parameters
    ----------
    graph : bytes
        `step.onnx`.
    blocks : LearnedBlocks
        The networks it was composed of.
    problem : ParityProblem
        Operators and frames.
    solver : FixedPointConfig
        Settings of the whole solve.
    dual_start : float
        Size of the first data dual.

    Returns
    -------
    StepParityReport
        Not judged: call `require` on it.

    Raises
    ------
    ExportError
        If there is no data consistency.
    ParityError
        If the problem has no frames.
    """
    if blocks.consistency is None:
        raise ExportError("no data consistency was given; expected both networks of the method deq")
    if len(problem.frames) == 0:
        raise ParityError("no frame was compared; expected at least one: give the check a measurement")
    open_step = partial(OnnxStepRunner, graph, "cpu")
    solvers = (
        Equilibrium(problem.operators, blocks.prior, blocks.consistency, solver, dual_start),
        ResidentEquilibrium(open_step, problem.operators, solver, dual_start),
    )
    images, iterations = [], []
    for frame, sigma in zip(problem.frames, problem.sigmas, strict=True):
        expected, found = (Reconstructor(one).reconstruct(frame, float(sigma)) for one in solvers)
        images.append(relative_error(found.image, expected.image))
        iterations.append((expected.report.iterations, found.report.iterations))
    step = AdmmStep(problem.operators, blocks.prior, blocks.consistency)
    resident = DeviceStep(open_step(problem.operators, EVALUATIONS + 1), problem.operators)
    return StepParityReport(
        evaluation=float(np.max(list(_evaluation_errors(step, resident, problem)))),
        image=float(np.max(images)),
        iterations=tuple(iterations),
    )


def _evaluation_errors(step: AdmmStep, resident: DeviceStep, problem: ParityProblem) -> Iterator[float]:
    rng = np.random.default_rng(4)
    operators = problem.operators
    cuts = [operators.n_voxels, operators.n_voxels + operators.n_rows]
    for frame, sigma in zip(problem.frames, problem.sigmas, strict=True):
        measurement = normalize(frame, operators, float(sigma))
        if measurement is None:
            raise ParityError("a frame of zeros was given; expected one that an image explains")
        epsilon = noise_bound(measurement, operators)
        step.set_measurements(measurement.y[None], np.array([epsilon]))
        resident.set_measurement(measurement.y, epsilon)
        dual = measurement.data_dual(1.0)
        resident.start(measurement.start, dual)
        states = np.zeros((resident.n_slots, step.measured))
        residuals = np.zeros_like(states)
        states[START_SLOT] = step.states(measurement.start[None], dual[None])[0, : step.measured]
        for slot in range(START_SLOT + 1, resident.n_slots):
            weights = np.zeros(resident.n_slots)
            weights[:slot] = rng.uniform(-WEIGHT_SPREAD, WEIGHT_SPREAD, slot)
            weights[0] += 1.0 - weights.sum()
            seen = resident.evaluate(weights, DAMPING, slot)
            point = weights @ (states - DAMPING * residuals)
            expected = step.evaluate(point)
            # The engine goes on from the states of the graph, so that every evaluation is judged alone.
            found = resident.read_state(slot)
            states[slot], residuals[slot] = found, found - point
            for a, b in zip(np.split(found, cuts), np.split(expected, cuts), strict=True):
                yield relative_error(a, b)
            yield from _report_errors(seen, slot, states[slot], residuals)


def _report_errors(
    seen: Evaluation, slot: int, value: NDArray[np.float64], residuals: NDArray[np.float64]
) -> Iterator[float]:
    """Relative errors of the inner products with the residuals before, and of the two norms."""
    norms = np.linalg.norm(residuals, axis=1)
    before = slice(START_SLOT + 1, slot)  # the start has no residual
    errors = np.abs(seen.products - residuals @ residuals[slot]) / np.maximum(norms * norms[slot], TINY_NORM)
    yield from errors[before].tolist()
    yield abs(seen.squared_residual / norms[slot] ** 2 - 1.0)
    yield abs(seen.squared_value / float(value @ value) - 1.0)
