"""Losses that give the two networks their start before the reconstruction is trained (Eqs. 26, 27)."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from trainer.data.linear_operators import TorchOperators
from trainer.data.noise import as_measurement, draw_log_uniform, normal_like
from trainer.networks.consistency import LearnedConsistency, project_ball
from trainer.networks.noise_level import REFERENCE_NOISE
from trainer.networks.rdn import ResidualDenseNetwork

ConsistencyTarget = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""What Psi_LC is to return: (v, y, noise-free data, epsilon), all in the dense layout, to z0."""


def on_ball(v: Tensor, y: Tensor, _clean: Tensor, epsilon: Tensor) -> Tensor:
    """Projection of v on the ball around y (Eqs. 10, 27)."""
    return project_ball(v, y, epsilon)


def without_noise(_v: Tensor, _y: Tensor, clean: Tensor, _epsilon: Tensor) -> Tensor:
    """Return the data as they were before the noise."""
    return clean


TARGETS: Mapping[str, ConsistencyTarget] = {"ball": on_ball, "noise-free": without_noise}
"""Targets by their names in a configuration."""


def denoising_loss(
    rdn: ResidualDenseNetwork, images: Tensor, noise: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Mean absolute error of Psi_RDN as a denoiser (Eq. 26).

    Parameters
    ----------
    rdn : ResidualDenseNetwork
    images : Tensor, shape (B, Ny, Nx)
    noise : tuple of float
        Range of sigma_1, log-uniform per image.
    generator : torch.Generator

    Returns
    -------
    Tensor, shape ()
    """
    sigma = draw_log_uniform(*noise, len(images), generator)
    noisy = images + sigma[:, None, None] * normal_like(images, generator)
    # Noise in an image says nothing of the noise in a measurement; a network that sees it gets one level.
    level = torch.full((len(images), 1, 1, 1), REFERENCE_NOISE, device=images.device)
    error: Tensor = (rdn(noisy[:, None], level)[:, 0] - images).abs().mean()
    return error


def consistency_loss(
    lc: LearnedConsistency,
    operators: TorchOperators,
    clean: Tensor,
    noise: tuple[tuple[float, float], tuple[float, float]],
    generator: torch.Generator,
    target: ConsistencyTarget = on_ball,
) -> Tensor:
    """Mean absolute error of Psi_LC against its target, over selected rows (Eq. 27).

    Parameters
    ----------
    lc : LearnedConsistency
    operators : TorchOperators
    clean : Tensor, shape (B, R)
        Noise-free data.
    noise : pair of tuple of float
        Ranges of sigma_2 (measurement y_n) and sigma_3 (input v_n), log-uniform per image.
    generator : torch.Generator
    target : callable, optional

    Returns
    -------
    Tensor, shape ()
    """
    sigma_2, sigma_3 = (draw_log_uniform(*limits, len(clean), generator) for limits in noise)
    measurement = as_measurement(operators, clean + sigma_2[:, None] * normal_like(clean, generator))
    v = operators.scatter(clean + sigma_3[:, None] * normal_like(clean, generator))
    y = operators.scatter(measurement.rows)
    epsilon = measurement.epsilon.reshape(-1, 1, 1, 1)
    error = lc(v, y, operators.mask, epsilon) - target(v, y, operators.scatter(clean), epsilon)
    return operators.gather(error).abs().mean()
