"""The reconstruction algorithms in eager PyTorch on the whole system matrix, as one writes them for a paper.

Opponents for the speed of the engine's solvers (`benchmarks.eager_speed`): same iterations, same weights, one
frame, single precision; no compiled loops, no compressed data. What a careful author saves is saved here too:
norms and (I + A^T A)^-1 are computed before, and A x once an iteration.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.measurement.normalization import NormalizedMeasurement, noise_bound
from engine.operators.operators import Operators
from engine.solvers.admm.total_variation import CHECK_EVERY

Prior = Callable[[Tensor], Tensor]
"""Psi_R of Eq. (6): regularises an image (Ny, Nx)."""


@dataclass(frozen=True)
class EagerFrame:
    """System matrix and one normalised measurement as tensors.

    Attributes
    ----------
    system_matrix : Tensor, shape (R, N)
        A.
    row_energies : Tensor, shape (R,)
        Squared norms of its rows.
    inverse : Tensor, shape (N, N)
        (I + A^T A)^-1.
    data : Tensor, shape (R,)
        y.
    start : Tensor, shape (N,)
        x_LS.
    epsilon : float
        Bound on ||z0 - y||.
    image_shape : tuple of int
        (Ny, Nx).
    """

    system_matrix: Tensor
    row_energies: Tensor
    inverse: Tensor
    data: Tensor
    start: Tensor
    epsilon: float
    image_shape: tuple[int, int]

    def in_double_precision(self) -> "EagerFrame":
        """Return the frame in float64, to tell the algorithm from its rounding."""
        matrix = self.system_matrix.double()
        normal = matrix.T @ matrix
        return replace(
            self,
            system_matrix=matrix,
            row_energies=(matrix * matrix).sum(dim=1),
            inverse=torch.linalg.inv(normal + torch.eye(len(normal), dtype=normal.dtype)),
            data=self.data.double(),
            start=self.start.double(),
        )


def eager_frame(operators: Operators, measurement: NormalizedMeasurement) -> EagerFrame:
    """Turn the engine's arrays into tensors that share their memory."""
    matrix = torch.from_numpy(operators.system_matrix)
    nx, ny, _ = operators.grid.size
    return EagerFrame(
        matrix,
        (matrix * matrix).sum(dim=1),
        torch.from_numpy(operators.inverse),
        torch.from_numpy(measurement.y),
        torch.from_numpy(measurement.start),
        noise_bound(measurement, operators),
        (ny, nx),
    )


def kaczmarz(frame: EagerFrame, damping: float, orders: Iterable[Sequence[int]]) -> Tensor:
    """Sweep over the rows with the weight lambda = `damping`; clip at zero after each sweep.

    As `engine.solvers.kaczmarz.Kaczmarz`: for min ||A x - y||^2 + lambda ||x||^2. `orders` holds the rows
    that each sweep visits. Returns x (N,).
    """
    rows, energies, data = frame.system_matrix, frame.row_energies, frame.data
    root = math.sqrt(damping)
    x, v = rows.new_zeros(rows.shape[1]), torch.zeros_like(data)
    for order in orders:
        for i in order:
            row = rows[i]
            step = (data[i] - root * v[i] - torch.dot(row, x)) / (energies[i] + damping)
            x += step * row
            v[i] += step * root
        x.clamp_(min=0)
    return x


def admm(frame: EagerFrame, prior: Prior, iterations: int) -> Tensor:
    """Iterate Eqs. (5)-(9) with the l2 ball (Eq. 10) from (x_LS, 0, 0); returns max(x, 0), shape (N,)."""
    A, y = frame.system_matrix, frame.data
    x = frame.start
    seen = A @ x
    d0, d1 = torch.zeros_like(y), torch.zeros_like(x)
    for _ in range(iterations):
        difference = seen - d0 - y
        z0 = y + difference * min(1.0, frame.epsilon / difference.norm().item())
        z1 = prior((x - d1).reshape(frame.image_shape)).reshape(-1)
        x = frame.inverse @ (A.T @ (z0 + d0) + z1 + d1)
        seen = A @ x
        d0 = d0 + z0 - seen
        d1 = d1 + z1 - x
    return x.clamp(min=0)


def l1_prior(weight: float) -> Prior:
    """Return the non-negative soft threshold."""
    return lambda image: (image - weight).clamp(min=0)


class TotalVariationPrior:
    """Non-negative total variation denoising, the algorithm of `engine.solvers.admm.total_variation`.

    Accelerated projected gradients on the dual, with restarts, stopped by the duality gap. The dual is kept
    from call to call, so an object serves one solve.

    Parameters
    ----------
    weight : float
        Of the isotropic total variation.
    l1 : float
        Of the sum of the image.
    tolerance : float
        Certain relative error of an image.
    max_iterations : int
        Most iterations for an image.
    """

    def __init__(self, weight: float, l1: float, tolerance: float, max_iterations: int) -> None:
        self._weight = weight
        self._l1 = l1
        self._tolerance = tolerance
        self._max_iterations = max_iterations
        self._dual: Tensor | None = None

    def __call__(self, image: Tensor) -> Tensor:
        """Denoise an image (Ny, Nx)."""
        image = image - self._l1
        weight = self._weight
        p = image.new_zeros(2, *image.shape) if self._dual is None else self._dual
        r, momentum = p, 1.0
        allowed_gap = 0.5 * self._tolerance**2 * image.square().sum().item()
        for iteration in range(self._max_iterations + 1):
            if iteration % CHECK_EVERY == 0 or iteration == self._max_iterations:
                x = (image - weight * adjoint_gradient(p)).clamp(min=0)
                slope = gradient(x)
                gap = weight * (slope.square().sum(dim=0).sqrt().sum() - (p * slope).sum()).item()
                if gap <= allowed_gap or iteration == self._max_iterations:
                    break
            x = (image - weight * adjoint_gradient(r)).clamp(min=0)
            q = r + gradient(x) / (8 * weight)
            q = q / q.square().sum(dim=0).sqrt().clamp(min=1)
            change = q - p
            following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            downhill = ((r - q) * change).sum().item() > 0
            r = q + (momentum - 1) / following * change
            p = q
            momentum = 1.0 if downhill else following
        self._dual = p
        return x


def gradient(image: Tensor) -> Tensor:
    """Return forward differences along y and x, zero across the border: (Ny, Nx) to (2, Ny, Nx)."""
    slope = image.new_zeros(2, *image.shape)
    slope[0, :-1] = image[1:] - image[:-1]
    slope[1, :, :-1] = image[:, 1:] - image[:, :-1]
    return slope


def adjoint_gradient(dual: Tensor) -> Tensor:
    """Return the adjoint of `gradient`, (2, Ny, Nx) to (Ny, Nx)."""
    image = torch.zeros_like(dual[0])
    image[:-1] -= dual[0, :-1]
    image[1:] += dual[0, :-1]
    image[:, :-1] -= dual[1, :, :-1]
    image[:, 1:] += dual[1, :, :-1]
    return image


def network_prior(network: torch.nn.Module, scale: float) -> Prior:
    """Return scale D(v / scale) of a denoiser D on (B, 1, Ny, Nx), as PP-MPI has it."""

    def denoise(image: Tensor) -> Tensor:
        found: Tensor = scale * network(image[None, None] / scale)[0, 0]
        return found

    return denoise
