"""Do the written graphs compute what the torch networks compute, up to the image? Measured, then judged.

The same solver runs once with the torch networks and once with ONNX Runtime, so that a difference can only
come from the graphs. One evaluation agrees to rounding; a whole solve amplifies rounding, therefore the
images and the number of iterations are compared too.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.fixed_point.solve import FixedPointConfig
from engine.networks.learned_blocks import Consistency, ImagePrior
from engine.reconstruction.reconstructor import Reconstruction, Reconstructor
from engine.solvers.frame_solver import FrameSolver
from export.errors import ParityError
from export.parity.learned_blocks import LearnedBlocks, open_solver
from export.parity.parity_problem import ParityProblem

NETWORK_TOLERANCE = 1e-5
"""Sums of a few hundred float32 products through twenty layers, in another order: 1e-7 to 1e-6 is usual."""

STEP_TOLERANCE = 1e-5
"""One pass through the networks and the operators: 1e-7 to 1e-6 is usual."""

IMAGE_TOLERANCE = 1e-2
"""Anderson weights amplify rounding while a solve has not converged: 4e-5 seen in 25 evaluations, and a
network that is nearly unstable may show more."""

ITERATION_TOLERANCE = 1
"""Rounding can move the residual across the stopping tolerance by one evaluation, not more."""

IMAGE_SHAPES = ((1, 13, 26), (2, 13, 26), (7, 13, 26), (1, 26, 52), (2, 5, 9))
"""(batch, height, width): the reference grid at several batch sizes, its refinement, a small odd one."""

DENSE_SHAPES = ((1, 60, 130), (2, 60, 130), (7, 60, 130), (2, 3, 700), (1, 1, 5))
"""(batch, lines, bins): the reference layout at several batch sizes, an FFP-like one, a small odd one."""

NOISE_DECADES = (-3.0, 0.0)
"""Powers of ten of the noise levels: more than 5 to 45 dB on the reference scanner."""

ONE_STEP = FixedPointConfig(memory=0, tolerance=0.0, max_iterations=1)


@dataclass(frozen=True)
class ParityReport:
    """Largest differences between the torch networks and ONNX Runtime.

    Attributes
    ----------
    networks : mapping of str to float
        Outputs of each network, relative to the largest value that goes in or comes out.
    step : float
        Images after one iteration of the method, relative to the peak of each.
    image : float
        Reconstructed images, relative to the peak of each.
    iterations : tuple of (int, int)
        Iterations of the method per frame: with torch, with ONNX Runtime.
    """

    networks: Mapping[str, float]
    step: float
    image: float
    iterations: tuple[tuple[int, int], ...]

    def require(self) -> None:
        """Raise unless every difference is within its tolerance.

        Raises
        ------
        ParityError
            Naming each figure, its limit, or that nothing was compared.
        """
        if not self.iterations:
            raise ParityError("no frame was compared; expected at least one: give the check a measurement")
        limits = {role: (error, NETWORK_TOLERANCE) for role, error in self.networks.items()} | {
            "step": (self.step, STEP_TOLERANCE),
            "image": (self.image, IMAGE_TOLERANCE),
            "iterations": (max(abs(a - b) for a, b in self.iterations), ITERATION_TOLERANCE),
        }
        failed = beyond_limits(limits)
        if failed:
            raise ParityError(
                f"the exported graphs differ from the networks: {failed}; no bundle was written: "
                "compare the versions of torch and onnxruntime with the supported ones"
            )

    def __str__(self) -> str:
        iterations = ", ".join(f"{a}/{b}" for a, b in self.iterations)
        return (
            f"networks within {max(self.networks.values()):.1e}, one step within {self.step:.1e}, "
            f"images within {self.image:.1e} of their largest value; iterations {iterations}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain values for a manifest."""
        return {
            **self.networks,
            "step": self.step,
            "image": self.image,
            "iterations": [list(pair) for pair in self.iterations],
        }


def measure_parity(
    networks: LearnedBlocks,
    graphs: LearnedBlocks,
    problem: ParityProblem,
    method: str,
    solver: FixedPointConfig | None,
    dual_start: float = 0.0,
) -> ParityReport:
    """Compare torch networks with their exported twins.

    Parameters
    ----------
    networks : LearnedBlocks
        The torch networks.
    graphs : LearnedBlocks
        What the engine runs in their place.
    problem : ParityProblem
        Operators and frames for the step and the whole solve.
    method : str
        The method they belong to.
    solver : FixedPointConfig or None
        Settings of the whole solve; None for a method that does not iterate.
    dual_start : float, optional
        Of an equilibrium method.

    Returns
    -------
    ParityReport
        Not judged: call `require` on it.

    Raises
    ------
    ParityError
        If an output has another shape or type, there is nothing to compare, or the image prior only knows
        the zero image, with which any two graphs agree.
    NonFiniteError
        If a solve produces NaN or infinity.
    """
    _require_alive(networks.prior)
    errors = {"rdn": _largest(_prior_errors(networks.prior, graphs.prior))}
    if networks.consistency is not None and graphs.consistency is not None:
        errors["lc"] = _largest(_consistency_errors(networks.consistency, graphs.consistency))
    steps, solves = (
        [
            _solve(problem, open_solver(method, problem.operators, blocks, config, dual_start))
            for blocks in (networks, graphs)
        ]
        for config in (ONE_STEP, solver)
    )
    return ParityReport(
        networks=errors,
        step=_largest(relative_error(b.image, a.image) for a, b in zip(*steps, strict=True)),
        image=_largest(relative_error(b.image, a.image) for a, b in zip(*solves, strict=True)),
        iterations=tuple((a.report.iterations, b.report.iterations) for a, b in zip(*solves, strict=True)),
    )


def beyond_limits(limits: Mapping[str, tuple[float, float]]) -> str:
    """Name the figures that are not within their limits, as (figure, limit) by name; "" if all are."""
    # "not within" rather than "above": NaN must fail.
    failed = [f"{name} {x:.2g} (limit {limit:g})" for name, (x, limit) in limits.items() if not x <= limit]
    return ", ".join(failed)


def relative_error(found: NDArray[Any], expected: NDArray[Any], *inputs: NDArray[Any]) -> float:
    """Largest difference relative to the largest value of `expected` and `inputs`.

    Raises
    ------
    ParityError
        If shape or type differ, or the arrays are empty.
    """
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise ParityError(
            f"the graph returned {found.dtype} of shape {found.shape}; expected {expected.dtype} of shape "
            f"{expected.shape} as from the network"
        )
    if expected.size == 0:
        raise ParityError("an empty output was compared; expected at least one value")
    difference = float(np.abs(found - expected).max())
    scale = max(float(np.abs(value).max()) for value in (expected, *inputs))
    if difference == 0.0:
        return 0.0
    return difference / scale if scale > 0.0 else math.inf


def _prior_errors(network: ImagePrior, graph: ImagePrior) -> Iterator[float]:
    return (relative_error(graph(*inputs), network(*inputs), inputs[0]) for inputs in _images())


def _consistency_errors(network: Consistency, graph: Consistency) -> Iterator[float]:
    return (relative_error(graph(*inputs), network(*inputs), *inputs[:2]) for inputs in _dense_inputs())


def _solve(problem: ParityProblem, solver: FrameSolver) -> list[Reconstruction]:
    reconstructor = Reconstructor(solver)
    return [
        reconstructor.reconstruct(rows, sigma)
        for rows, sigma in zip(problem.frames, problem.sigmas, strict=True)
    ]


def _largest(errors: Iterator[float]) -> float:
    """Maximum that keeps NaN and refuses an empty comparison."""
    values = list(errors)
    if not values:
        raise ParityError("nothing was compared; expected at least one output: give the check a measurement")
    return float(np.max(values))


def _require_alive(prior: ImagePrior) -> None:
    if not any(np.any(prior(*inputs)) for inputs in _images()):
        raise ParityError(
            "the image prior returns a zero image for every test image; expected a network that passes "
            "images: its training has collapsed, export another run or checkpoint"
        )


def _images() -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Images of peak about 1 with the noise that iterates carry, and noise levels of measurements."""
    rng = np.random.default_rng(0)
    for batch, height, width in IMAGE_SHAPES:
        ramp = np.linspace(0.0, 1.0, height * width).reshape(height, width)
        images = ramp + 0.1 * rng.standard_normal((batch, 1, height, width))
        noise = 10.0 ** rng.uniform(*NOISE_DECADES, (batch, 1, 1, 1))
        yield images.astype(np.float32), noise.astype(np.float32)


def _dense_inputs() -> Iterator[tuple[NDArray[np.float32], ...]]:
    """v, y, mask, epsilon: v near y, v equal to y, and no selected row at all, where Z - y is zero."""
    rng = np.random.default_rng(1)
    for batch, lines, bins in DENSE_SHAPES:
        shape = (batch, 2, lines, bins)
        mask = (rng.random((1, 1, lines, bins)) < 0.4).astype(np.float32)
        y = rng.standard_normal(shape).astype(np.float32) * mask
        v = y + 0.3 * rng.standard_normal(shape).astype(np.float32) * mask
        epsilon = rng.uniform(0.1, 10.0, (batch, 1, 1, 1)).astype(np.float32)
        yield v, y, mask, epsilon
        yield y.copy(), y, mask, epsilon
        yield np.zeros_like(y), np.zeros_like(y), np.zeros_like(mask), epsilon
