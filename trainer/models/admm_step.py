"""The map h_theta of Eqs. (15)-(17) for a batch, the torch twin of `engine.solvers.deq.admm_step`."""

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.data.linear_operators import TorchOperators
from trainer.data.noise import MeasuredBatch

ImagePrior = Callable[[Tensor, Tensor], Tensor]
"""Psi_RDN: images (B, 1, Ny, Nx) and noise levels (B, 1, 1, 1) to images."""

Consistency = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Psi_LC: (v, y, mask, epsilon) in the dense layout to z0; see `LearnedConsistency.forward`."""


class AdmmStep:
    """h_theta for fixed measurements; states are (B, N + R + N) = (x, d0, d1).

    Parameters
    ----------
    prior : callable
        Psi_RDN.
    consistency : callable
        Psi_LC.
    operators : TorchOperators
        R real rows, N voxels.
    measurement : MeasuredBatch
        Data and epsilon of B samples.
    dual_start : float, optional
        Size of the first data dual; see `start`.
    """

    def __init__(
        self,
        prior: ImagePrior,
        consistency: Consistency,
        operators: TorchOperators,
        measurement: MeasuredBatch,
        dual_start: float = 0.0,
    ) -> None:
        self._dual_start = dual_start
        self._prior = prior
        self._consistency = consistency
        self._operators = operators
        self._measurement = measurement
        self._dense = operators.scatter(measurement.rows)

    def __call__(self, state: Tensor) -> Tensor:
        """Apply the map once to a batch of states."""
        op = self._operators
        x, d0, d1 = self.split(state)
        v = op.scatter(op.forward_project(x) - d0)
        epsilon = self._measurement.epsilon.reshape(-1, 1, 1, 1)
        noise = self._measurement.noise.reshape(-1, 1, 1, 1)
        z0 = op.gather(self._consistency(v, self._dense, op.mask, epsilon))  # Eq. (15)
        z1 = self._prior(op.as_images(x - d1), noise).flatten(1)  # Eq. (16)
        data, image = z0 + d0, z1 + d1
        # Eq. (17); its last line prints A x where Eq. (9), from which it comes, has x.
        x_next = op.reconcile(data, image)
        return torch.cat([x_next, data - op.forward_project(x_next), image - x_next], dim=1)

    def start(self) -> Tensor:
        """Return the start state, shape (B, N + R + N): x_LS, the data dual and a zero image dual.

        The data dual is `dual_start` (y - U U^T y) / sigma. That part of y, which no image explains, is where
        most of d0 lies at the fixed point, with a size that hardly depends on the noise; from zero the
        iteration gets there slowly, the more so the smaller epsilon is.
        """
        op, measurement = self._operators, self._measurement
        explained = op.project_left(measurement.rows)
        x = op.least_squares(explained)
        outside = measurement.rows - explained @ op.left_singular
        d0 = outside * (self._dual_start / measurement.noise)[:, None]
        return torch.cat([x, d0, torch.zeros_like(x)], dim=1)

    def take(self, samples: Tensor) -> "AdmmStep":
        """Return the map of some samples of the batch, given their indices."""
        taken = self._measurement.take(samples)
        return AdmmStep(self._prior, self._consistency, self._operators, taken, self._dual_start)

    def split(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split a state (B, N + R + N) into x (B, N), d0 (B, R) and d1 (B, N), as views."""
        n, r = self._operators.n_voxels, self._operators.n_rows
        x, d0, d1 = torch.split(state, [n, r, n], dim=1)
        return x, d0, d1
