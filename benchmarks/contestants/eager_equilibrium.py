"""DEQ-MPI in eager PyTorch, one frame, as a careful author writes it: the opponent of the engine's speed.

The same map, start, acceleration and best iterate as the engine. What care alone gives is there: no
gradients, M A^T premultiplied, networks in the faster memory format, indices instead of masks, differences
kept from one evaluation to the next. What takes a program of its own is not: no compiled graphs, no A x
carried along.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.fixed_point.safeguard import TINY_NORM
from engine.fixed_point.solve import FixedPointConfig
from engine.measurement.normalization import NormalizedMeasurement, noise_bound
from engine.operators.operators import Operators


class EagerEquilibrium:
    """The fixed point of h_theta for one frame at a time.

    Parameters
    ----------
    rdn, lc : nn.Module
        Psi_RDN and Psi_LC in evaluation mode.
    operators : Operators
        Of the system matrix.
    config : FixedPointConfig
        How to iterate.
    dual_start : float
        Size of the first data dual.
    memory_format : torch.memory_format
        Of the image network.
    """

    def __init__(
        self,
        rdn: nn.Module,
        lc: nn.Module,
        operators: Operators,
        config: FixedPointConfig,
        dual_start: float,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self._rdn = rdn.to(memory_format=memory_format)  # type: ignore[call-overload]
        self._lc = lc
        self._format = memory_format
        self._operators = operators
        self._config = config
        self._dual_start = dual_start
        self._matrix = torch.from_numpy(operators.system_matrix)
        self._weighted_adjoint = torch.from_numpy(operators.weighted_adjoint)
        self._inverse = torch.from_numpy(operators.inverse)
        index = operators.layout.index
        self._places = torch.from_numpy(np.concatenate([index, index + operators.layout.mask.size]))
        self._mask = torch.from_numpy(operators.layout.mask)[None, None]

    def solve(self, measurement: NormalizedMeasurement) -> NDArray[np.float32]:
        """Return the image max(x, 0), shape (N,), of the best iterate."""
        with torch.inference_mode():
            step = self._step(measurement)
            dual = torch.from_numpy(measurement.data_dual(self._dual_start))
            start = torch.from_numpy(measurement.start)
            state = self._iterate(step, torch.cat([start, dual, torch.zeros_like(start)]))
            image: NDArray[np.float32] = state[: self._operators.n_voxels].clamp(min=0).numpy()
        return image

    def _step(self, measurement: NormalizedMeasurement) -> Callable[[Tensor], Tensor]:
        operators = self._operators
        n, r = operators.n_voxels, operators.n_rows
        nx, ny, _ = operators.grid.size
        shape = (1, 2, *operators.layout.shape)
        bound = noise_bound(measurement, operators)
        epsilon = torch.full((1, 1, 1, 1), bound)
        noise = torch.full((1, 1, 1, 1), bound / float(np.sqrt(r)))
        data = torch.zeros(2 * self._mask.numel())
        data[self._places] = torch.from_numpy(measurement.y)
        data = data.reshape(shape)
        dense = torch.zeros(2 * self._mask.numel())

        def step(state: Tensor) -> Tensor:
            x, d0, d1 = state[:n], state[n : n + r], state[n + r :]
            dense.index_copy_(0, self._places, self._matrix @ x - d0)
            z0 = self._lc(dense.reshape(shape), data, self._mask, epsilon)  # Eq. (15)
            data_sum = d0 + z0.reshape(-1).index_select(0, self._places)
            image = (x - d1).reshape(1, 1, ny, nx).to(memory_format=self._format)
            image_sum = d1 + self._rdn(image, noise).reshape(-1)  # Eq. (16)
            x = torch.addmv(self._inverse @ image_sum, self._weighted_adjoint, data_sum)  # Eq. (17)
            return torch.cat([x, data_sum - self._matrix @ x, image_sum - x])

        return step

    def _iterate(self, step: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
        config = self._config
        values = torch.empty(config.memory, len(point))
        residuals = torch.empty(config.memory, len(point))
        best, best_value = float("inf"), point
        for evaluation in range(config.max_iterations):
            value = step(point)
            slot, held = evaluation % config.memory, min(evaluation + 1, config.memory)
            values[slot] = value
            torch.sub(value, point, out=residuals[slot])
            residual = float(residuals[slot].norm() / (value.norm() + TINY_NORM))
            if residual < best:
                best, best_value = residual, value
            if residual <= config.tolerance:
                break
            gram = residuals[:held] @ residuals[:held].T
            gram.diagonal().add_(config.regularization * gram.diagonal().mean())
            weights = torch.linalg.solve(gram, torch.ones(held))
            point = (weights / weights.sum()) @ values[:held]
        return best_value
