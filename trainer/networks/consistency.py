"""The data side of the fixed point: projection on the l2 ball and its learned counterpart (Eqs. 10, 25)."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from trainer.networks.noise_level import noise_level

MIN_NORM = 1e-12
"""Keeps the division defined where a vector already sits on the ball's centre."""


def ball_factor(difference: Tensor, epsilon: Tensor) -> Tensor:
    """Return min(1, epsilon / ||difference||) per sample.

    Parameters
    ----------
    difference : Tensor, shape (B, 2, n_lines, n_bins)
        Dense data; places that are not selected must be zero.
    epsilon : Tensor, shape (B, 1, 1, 1)
        Radius of the ball.

    Returns
    -------
    Tensor, shape (B, 1, 1, 1)
    """
    squared = difference.square().sum(dim=(1, 2, 3), keepdim=True)
    norm = torch.sqrt(torch.clamp(squared, min=MIN_NORM**2))
    return torch.clamp(epsilon / norm, max=1.0)


def project_ball(v: Tensor, y: Tensor, epsilon: Tensor) -> Tensor:
    """Project v on the ball of radius epsilon around y (Eq. 10); dense shapes as in `ball_factor`."""
    difference = v - y
    return y + difference * ball_factor(difference, epsilon)


class BallProjection(nn.Module):
    """Psi_chi: the unlearned projection on the l2 ball (Eq. 10), called as `LearnedConsistency` is."""

    def forward(self, v: Tensor, y: Tensor, _mask: Tensor, epsilon: Tensor) -> Tensor:
        """Project v on the ball; `v` and `y` are zero where no row is selected, and so is the result."""
        return project_ball(v, y, epsilon)


class LearnedConsistency(nn.Module):
    """Psi_LC: convolutions along frequency, then the epsilon bound (Eqs. 24, 25).

    Kernels run along the frequency bins of one line (FFL angle); lines do not mix.

    Parameters
    ----------
    features : int, optional
        Hidden channels F_LC.
    hidden_layers : int, optional
        Number n_LC of hidden layers.
    kernel : int, optional
        Kernel length along frequency, odd.
    takes_noise : bool, optional
        Whether the convolutions see the noise level, as a fifth channel that is constant where a row is
        selected and zero elsewhere.
    """

    def __init__(
        self, features: int = 8, hidden_layers: int = 1, kernel: int = 3, *, takes_noise: bool = False
    ) -> None:
        super().__init__()
        self.takes_noise = takes_noise
        widths = [5 if takes_noise else 4] + [features] * (hidden_layers + 1)
        self.hidden = nn.ModuleList(
            nn.Conv2d(a, b, (1, kernel), padding=(0, kernel // 2)) for a, b in pairwise(widths)
        )
        self.exit = nn.Conv2d(features, 2, (1, kernel), padding=(0, kernel // 2))

    def forward(self, v: Tensor, y: Tensor, mask: Tensor, epsilon: Tensor) -> Tensor:
        """Make the data consistent with the measurement.

        Parameters
        ----------
        v : Tensor, shape (B, 2, n_lines, n_bins)
            A x - d0 in the dense layout, zero where no row is selected.
        y : Tensor, shape (B, 2, n_lines, n_bins)
            Measured data, same layout.
        mask : Tensor, shape (1, 1, n_lines, n_bins)
            1 where a row is selected.
        epsilon : Tensor, shape (B, 1, 1, 1)
            Bound on ||z0 - y||.

        Returns
        -------
        Tensor, shape (B, 2, n_lines, n_bins)
            z0, zero where no row is selected.
        """
        inputs = [y, v]
        if self.takes_noise:
            n_rows = 2.0 * mask.sum()  # real and imaginary part of every selected place
            inputs.append(noise_level(epsilon / torch.sqrt(n_rows)) * mask)
        u = torch.cat(inputs, dim=1)
        for layer in self.hidden:
            u = torch.relu(layer(u))
        difference: Tensor = (self.exit(u) - y) * mask
        return y + difference * ball_factor(difference, epsilon)  # Eq. (25)
