"""The deep image prior: an untrained network whose weights are fitted to one measurement.

The image is G_theta(z) of a convolutional generator G with a fixed random input z; theta minimises the mean
squared misfit of the data, min ||A G_theta(z) - y||^2, by Adam, and the number of iterations regularises
(Ulyanov et al., CVPR 2018; for magnetic particle imaging Dittmer et al., MLMIR 2020; Sec. IV-A).
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.arrays import Float32Array
from engine.errors import InputError, NonFiniteError
from engine.fixed_point.solution import Result, Solution, SolveStats
from engine.machine.checked_values import require
from engine.measurement.normalization import NormalizedMeasurement
from engine.operators.operators import Operators

HALVINGS = 2
"""Levels of the generator below the image's own resolution; fewer on a grid that is too small for them."""

SMALLEST_SIDE = 2
"""Pixels of the shorter side of the coarsest level: an instance has no spread over fewer."""

LEAK = 0.1
"""Slope of the activations for negative values."""

SHARPNESS = 4.0
"""Of the softplus at the output: for a hundredth of the usual peak a pixel needs a value of -0.8 there."""

EXIT_GAIN = 0.02
"""Size of the initial weights at the output beside those of the layers: fits begin at an almost constant
image. At 1 they begin at one of strong contrast, and take many times as long to forget it."""

ADAM_BETAS = (0.9, 0.999)


@dataclass(frozen=True)
class DipConfig:
    """How the generator is fitted.

    Attributes
    ----------
    iterations : int
        Steps of Adam.
    learning_rate : float
    features : int
        Channels of the generator.
    seed : int
        Of the input and the initial weights, which are the same for all frames.

    Raises
    ------
    ConfigError
        If a value is impossible.
    """

    iterations: int = 20000
    learning_rate: float = 1e-3
    features: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        rate = self.learning_rate
        require(self.iterations >= 1, "iterations", self.iterations, "at least 1")
        require(isfinite(rate) and rate > 0, "learning_rate", rate, "a positive number")
        require(self.features >= 1, "features", self.features, "at least 1")
        require(0 <= self.seed < 2**63, "seed", self.seed, "a non-negative integer below 2^63")


@dataclass(frozen=True)
class DipSnapshot:
    """Where the fits of F frames are after some iterations.

    Attributes
    ----------
    iterations : int
        Steps of Adam done.
    images : ndarray of float32, shape (F, N)
        Not negative, in the units of the normalised measurements.
    residuals : ndarray of float32, shape (F, iterations)
        ||A x - y|| / ||y|| after every step.
    """

    iterations: int
    images: Float32Array
    residuals: Float32Array


def deep_image_prior(
    operators: Operators, measurements: Sequence[NormalizedMeasurement], config: DipConfig
) -> list[Solution]:
    """Fit a generator to each measurement.

    Parameters
    ----------
    operators : Operators
        On a grid with Nz = 1.
    measurements : sequence of NormalizedMeasurement
        None of them zero. Every frame has weights of its own; all are fitted together.
    config : DipConfig

    Returns
    -------
    list of Solution
        `value` is the image after the last iteration, (N,), not negative, in normalised units; the residuals
        are those of `DipSnapshot`.

    Raises
    ------
    InputError
        If the grid has several slices or is less than two pixels wide.
    NonFiniteError
        If an image is NaN or infinite.
    """
    (end,) = fit_deep_image_prior(operators, measurements, config, {config.iterations})
    return [
        Solution(image, Result.FIXED_ITERATIONS, SolveStats(end.iterations, tuple(history.tolist())))
        for image, history in zip(end.images, end.residuals, strict=True)
    ]


def fit_deep_image_prior(
    operators: Operators,
    measurements: Sequence[NormalizedMeasurement],
    config: DipConfig,
    snapshots: Collection[int],
) -> Iterator[DipSnapshot]:
    """Fit a generator to each measurement and stop on the way to look at the images.

    Parameters
    ----------
    operators, measurements, config
        As in `deep_image_prior`.
    snapshots : collection of int
        Numbers of iterations to stop at, from 1 to `config.iterations`.

    Yields
    ------
    DipSnapshot
        At each of them, in rising order. The fit ends after the last one.

    Raises
    ------
    InputError, NonFiniteError
        As in `deep_image_prior`; also InputError if a snapshot is out of range.
    """
    stops = sorted(set(snapshots))
    if not stops or not 1 <= stops[0] <= stops[-1] <= config.iterations:
        raise InputError(
            f"snapshots at {stops}; expected numbers of iterations between 1 and {config.iterations}"
        )
    problem = _CompressedData.of(operators, measurements)
    generator = _Generators(len(measurements), _image_shape(operators), config.features, config.seed)
    optimizer = torch.optim.Adam(generator.parameters(), config.learning_rate, ADAM_BETAS, fused=True)
    squares: list[Tensor] = []
    for iteration in range(stops[-1] + 1):
        with torch.enable_grad():  # whatever the caller does between two snapshots
            images = generator()
            misfit = problem.squared_misfit(images)
            # Frames share no weight, so that the gradient of the sum holds that of every frame.
            loss = misfit.sum() / operators.n_rows
        if iteration > 0:
            squares.append(misfit.detach())
        if iteration in stops:
            yield _snapshot(iteration, images.detach(), problem.relative(torch.stack(squares, dim=1)))
        if iteration < stops[-1]:
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def _image_shape(operators: Operators) -> tuple[int, int]:
    nx, ny, nz = operators.grid.size
    if nz != 1 or min(nx, ny) < SMALLEST_SIDE:
        raise InputError(
            f"the grid has {nx} x {ny} x {nz} voxels; the deep image prior needs one slice of at least "
            f"{SMALLEST_SIDE} x {SMALLEST_SIDE}: calibrate on another grid"
        )
    return ny, nx


def _snapshot(iterations: int, images: Tensor, residuals: Tensor) -> DipSnapshot:
    bad = int((~torch.isfinite(images).all(dim=1)).sum())
    if bad:
        raise NonFiniteError(
            f"{bad} of {len(images)} images hold NaN or infinity after {iterations} iterations; expected "
            "finite values: lower the learning rate"
        )
    return DipSnapshot(iterations, images.numpy().copy(), residuals.numpy())


@dataclass(frozen=True)
class _CompressedData:
    """The misfit without the rows: ||A x - y||^2 = ||s V^T x - U^T y||^2 + ||y - U U^T y||^2.

    Attributes
    ----------
    matrix : Tensor, shape (N, N)
        V diag(s).
    explained : Tensor, shape (F, N)
        U^T y.
    remainder : Tensor, shape (F,)
        ||y - U U^T y||.
    """

    matrix: Tensor
    explained: Tensor
    remainder: Tensor

    @classmethod
    def of(cls, operators: Operators, measurements: Sequence[NormalizedMeasurement]) -> "_CompressedData":
        return cls(
            torch.tensor(operators.right_singular * operators.singular_values, dtype=torch.float32),
            torch.tensor(np.stack([measurement.explained for measurement in measurements])),
            torch.tensor([measurement.remainder for measurement in measurements]),
        )

    def squared_misfit(self, images: Tensor) -> Tensor:
        """Return ||s V^T x - U^T y||^2 of images (F, N), shape (F,)."""
        return (images @ self.matrix - self.explained).square().sum(dim=1)

    def relative(self, squared: Tensor) -> Tensor:
        """Return ||A x - y|| / ||y|| from squared misfits (F, any)."""
        floor = self.remainder[:, None].square()
        data = self.explained.square().sum(dim=1, keepdim=True) + floor
        return torch.sqrt((squared + floor) / data)


class _Generators(nn.Module):
    """F generators of one architecture and start, each with weights of its own.

    Coarse to fine: a 3x3 convolution at each level with normalisation over the pixels of every channel and
    a leaky ReLU, twice as many pixels from one level to the next, and a softplus at the output. The channels
    of all frames lie side by side, so that grouped convolutions keep the frames apart.
    """

    input: Tensor

    def __init__(self, count: int, shape: tuple[int, int], features: int, seed: int) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(seed)
        self._count = count
        self._sizes = _level_sizes(shape)
        noise = torch.rand(1, features, *self._sizes[0], generator=draws)
        self.register_buffer("input", noise.repeat(1, count, 1, 1))
        self.levels = nn.ModuleList(_NormalisedLayers(count, features, draws) for _ in self._sizes)
        start = EXIT_GAIN * _draw((1, features, 1, 1), draws)
        self.exit_weight = nn.Parameter(start.repeat(count, 1, 1, 1))
        self.exit_bias = nn.Parameter(torch.zeros(count))

    def forward(self) -> Tensor:
        """Return the images (F, N)."""
        u = self.levels[0](self.input)
        for level, size in zip(self.levels[1:], self._sizes[1:], strict=True):
            u = level(functional.interpolate(u, size=size, mode="bilinear", align_corners=False))
        u = functional.conv2d(u, self.exit_weight, self.exit_bias, groups=self._count)
        return functional.softplus(u, beta=SHARPNESS).reshape(self._count, -1)


class _NormalisedLayers(nn.Module):
    """A 3x3 convolution, normalisation and activation, per frame."""

    def __init__(self, count: int, features: int, draws: torch.Generator) -> None:
        super().__init__()
        self._count = count
        self.weight = nn.Parameter(_draw((features, features, 3, 3), draws).repeat(count, 1, 1, 1))
        self.gain = nn.Parameter(torch.ones(count * features))
        self.offset = nn.Parameter(torch.zeros(count * features))

    def forward(self, u: Tensor) -> Tensor:
        u = functional.conv2d(u, self.weight, padding=1, groups=self._count)
        u = functional.instance_norm(u, weight=self.gain, bias=self.offset)
        return functional.leaky_relu(u, LEAK)


def _level_sizes(shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Heights and widths of the levels, coarse to fine; each is half of the next, rounded up."""
    sizes = [shape]
    while len(sizes) <= HALVINGS and min(sizes[-1]) > SMALLEST_SIDE:
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes[::-1]


def _draw(shape: tuple[int, ...], draws: torch.Generator) -> Tensor:
    """Draw weights (outputs, inputs, height, width) that keep the variance through a ReLU."""
    fan_in = shape[1] * shape[2] * shape[3]
    limit: float = (6.0 / fan_in) ** 0.5
    return limit * (2.0 * torch.rand(shape, generator=draws) - 1.0)
