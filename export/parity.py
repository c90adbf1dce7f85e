"""Do the written graphs compute what the torch networks compute, up to the image? Measured, then judged.

The same solver runs once with the torch networks and once with ONNX Runtime, so that a difference can only
come from the graphs. One evaluation agrees to rounding; a whole solve amplifies rounding, therefore the
images and the number of iterations are compared too.
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from engine.fixed_point import FixedPointConfig
from engine.protocols import Consistency, ImagePrior
from engine.reconstructor import Reconstruction, Reconstructor
from export.errors import ParityError
from export.parity_problem import ParityProblem

NETWORK_TOLERANCE = 1e-5
"""Sums of a few hundred float32 products through twenty layers, in another order: 1e-7 to 1e-6 is usual."""

STEP_TOLERANCE = 1e-3
"""Rounding of data ten times larger than the state, summed over thousands of rows: 1e-4 is usual."""

IMAGE_TOLERANCE = 1e-2
"""Anderson weights amplify rounding while a solve has not converged: up to 2e-3 seen in 25 evaluations."""

ITERATION_TOLERANCE = 1
"""Rounding can move the residual across the stopping tolerance by one evaluation, not more."""

IMAGE_SHAPES = ((1, 13, 26), (2, 13, 26), (7, 13, 26), (1, 26, 52), (2, 5, 9))
"""(batch, height, width): the reference grid at several batch sizes, its refinement, a small odd one."""

DENSE_SHAPES = ((1, 60, 130), (2, 60, 130), (7, 60, 130), (2, 3, 700), (1, 1, 5))
"""(batch, lines, bins): the reference layout at several batch sizes, an FFP-like one, a small odd one."""

Network = Callable[..., NDArray[Any]]


@dataclass(frozen=True)
class ParityReport:
    """Largest differences between the torch networks and ONNX Runtime.

    Attributes
    ----------
    rdn, lc : float
        Outputs of the networks, relative to the largest value that goes in or comes out.
    step : float
        State after one ADMM step, relative to its largest value.
    image : float
        Reconstructed images, relative to the peak of each.
    iterations : tuple of (int, int)
        Evaluations of the fixed-point map per frame: with torch, with ONNX Runtime.
    """

    rdn: float
    lc: float
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
        limits = {
            "rdn": (self.rdn, NETWORK_TOLERANCE),
            "lc": (self.lc, NETWORK_TOLERANCE),
            "step": (self.step, STEP_TOLERANCE),
            "image": (self.image, IMAGE_TOLERANCE),
            "iterations": (max(abs(a - b) for a, b in self.iterations), ITERATION_TOLERANCE),
        }
        # "not within" rather than "above": NaN must fail.
        failed = [
            f"{name} {value:.2g} (limit {limit:g})"
            for name, (value, limit) in limits.items()
            if not value <= limit
        ]
        if failed:
            raise ParityError(
                f"the exported graphs differ from the networks: {', '.join(failed)}; no bundle was written: "
                "compare the versions of torch and onnxruntime with the supported ones"
            )

    def __str__(self) -> str:
        evaluations = ", ".join(f"{a}/{b}" for a, b in self.iterations)
        return (
            f"networks within {max(self.rdn, self.lc):.1e}, one step within {self.step:.1e}, "
            f"images within {self.image:.1e} of their largest value; evaluations {evaluations}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain values for a manifest."""
        return {
            "rdn": self.rdn,
            "lc": self.lc,
            "step": self.step,
            "image": self.image,
            "iterations": [list(pair) for pair in self.iterations],
        }


def measure_parity(
    rdn: nn.Module,
    lc: nn.Module,
    prior: ImagePrior,
    consistency: Consistency,
    problem: ParityProblem,
    solver: FixedPointConfig,
) -> ParityReport:
    """Compare torch networks with their exported twins.

    Parameters
    ----------
    rdn, lc : nn.Module
        The networks; copies run on the CPU.
    prior, consistency : callable
        What the engine runs in their place.
    problem : ParityProblem
        Operators and frames for the step and the whole solve.
    solver : FixedPointConfig
        Settings of the whole solve.

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
    torch_prior, torch_consistency = as_callable(rdn), as_callable(lc)
    _require_alive(torch_prior)
    one_step = FixedPointConfig(memory=0, max_iterations=1)
    blocks = ((torch_prior, torch_consistency), (prior, consistency))
    steps = [_solve(problem, a, b, one_step) for a, b in blocks]
    solves = [_solve(problem, a, b, solver) for a, b in blocks]
    return ParityReport(
        rdn=_largest(relative_error(prior(v), torch_prior(v), v) for v in _images()),
        lc=_largest(
            relative_error(consistency(*inputs), torch_consistency(*inputs), *inputs[:2])
            for inputs in _dense_inputs()
        ),
        step=_largest(
            relative_error(b.solution.value, a.solution.value) for a, b in zip(*steps, strict=True)
        ),
        image=_largest(relative_error(b.image, a.image) for a, b in zip(*solves, strict=True)),
        iterations=tuple((a.report.iterations, b.report.iterations) for a, b in zip(*solves, strict=True)),
    )


def as_callable(module: nn.Module) -> Network:
    """Wrap a copy of a torch module as a function of float32 arrays, for the engine's solvers."""
    network = copy.deepcopy(module).cpu().eval()

    def call(*inputs: NDArray[np.float32]) -> NDArray[Any]:
        with torch.no_grad():
            # Copies: the engine reuses its arrays, and torch may return a view of an input.
            result: NDArray[Any] = network(*(torch.tensor(value) for value in inputs)).numpy()
        return result

    return call


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


def _solve(
    problem: ParityProblem, prior: ImagePrior, consistency: Consistency, solver: FixedPointConfig
) -> list[Reconstruction]:
    reconstructor = Reconstructor(problem.operators, prior, consistency, solver)
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
    if not any(np.any(prior(v)) for v in _images()):
        raise ParityError(
            "the image prior returns a zero image for every test image; expected a network that passes "
            "images: its training has collapsed, export another run or checkpoint"
        )


def _images() -> Iterator[NDArray[np.float32]]:
    """Images of peak about 1 with the noise that iterates carry."""
    rng = np.random.default_rng(0)
    for batch, height, width in IMAGE_SHAPES:
        ramp = np.linspace(0.0, 1.0, height * width).reshape(height, width)
        yield (ramp + 0.1 * rng.standard_normal((batch, 1, height, width))).astype(np.float32)


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
