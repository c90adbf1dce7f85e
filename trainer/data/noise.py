"""The measurement model y = A_data x + n, and the noise level that a reconstruction sees in y."""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import InputError
from engine.measurement.normalization import SIGMA_FLOOR, TIKHONOV_PEAK
from engine.operators.operators import ROWS_PER_TRIPLET
from trainer.data.linear_operators import TorchOperators


@dataclass(frozen=True)
class MeasuredBatch:
    """Normalised data of B samples.

    Attributes
    ----------
    rows : Tensor, shape (B, R)
        Real-stacked data y in the unit of `TorchOperators.system_matrix`.
    epsilon : Tensor, shape (B,)
        Bound sigma sqrt(R) on ||z0 - y||.
    """

    rows: Tensor
    epsilon: Tensor

    @property
    def noise(self) -> Tensor:
        """Standard deviation sigma of each real row, shape (B,)."""
        sigma: Tensor = self.epsilon / self.rows.shape[1] ** 0.5
        return sigma

    def take(self, samples: Tensor) -> "MeasuredBatch":
        """Return some of the samples, given their indices."""
        return MeasuredBatch(self.rows[samples], self.epsilon[samples])


def draw_uniform(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` float32 values from U(low, high) on the generator's device."""
    unit = torch.rand(count, generator=generator, device=generator.device)
    return low + (high - low) * unit


def draw_log_uniform(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` float32 values whose logarithm is uniform between those of `low` and `high`."""
    unit = torch.rand(count, generator=generator, device=generator.device)
    return low * (high / low) ** unit


def normal_like(values: Tensor, generator: torch.Generator) -> Tensor:
    """Draw standard normal values of the shape and dtype of `values`."""
    return torch.randn(values.shape, generator=generator, device=generator.device, dtype=values.dtype)


def add_noise(clean: Tensor, snr: Tensor, generator: torch.Generator) -> Tensor:
    """Add white Gaussian noise at a given expected SNR (Eq. 36).

    Parameters
    ----------
    clean : Tensor, shape (B, R)
        Noise-free rows; white means of equal variance in the whitened, normalised unit.
    snr : Tensor, shape (B,)
        In dB.
    generator : torch.Generator

    Returns
    -------
    Tensor, shape (B, R)
    """
    norm = torch.linalg.vector_norm(clean, dim=1)
    sigma = norm * 10.0 ** (-snr.to(clean) / 20.0) / clean.shape[1] ** 0.5
    noisy: Tensor = clean + sigma[:, None] * normal_like(clean, generator)
    return noisy


def estimate_sigma(operators: TorchOperators, rows: Tensor, explained: Tensor) -> Tensor:
    """Estimate the noise level from the part of y that no image explains, by the engine's rule.

    sigma^2 = ||y - U U^T y||^2 / (R - N), floored at `SIGMA_FLOOR` times the rms of y.

    Parameters
    ----------
    operators : TorchOperators
    rows : Tensor, shape (B, R)
        y.
    explained : Tensor, shape (B, N)
        U^T y.

    Returns
    -------
    Tensor, shape (B,)

    Raises
    ------
    InputError
        If there are too few rows to tell noise from signal.
    """
    n_rows, n_voxels = operators.n_rows, operators.n_voxels
    if n_rows < ROWS_PER_TRIPLET * n_voxels:
        raise InputError(
            f"{n_rows} real rows for {n_voxels} voxels; expected at least {ROWS_PER_TRIPLET * n_voxels} to "
            "estimate the noise: select more rows of the system matrix"
        )
    outside = rows - explained @ operators.left_singular
    sigma = torch.linalg.vector_norm(outside, dim=1, dtype=torch.float64) / (n_rows - n_voxels) ** 0.5
    floor = SIGMA_FLOOR * torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64) / n_rows**0.5
    return torch.maximum(sigma, floor).to(rows.dtype)


def as_measurement(operators: TorchOperators, rows: Tensor) -> MeasuredBatch:
    """Give rows (B, R) their epsilon = sigma sqrt(R), from the noise level they show themselves."""
    sigma = estimate_sigma(operators, rows, operators.project_left(rows))
    return MeasuredBatch(rows, sigma * rows.shape[1] ** 0.5)


def normalise_intensity(operators: TorchOperators, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Scale rows to images of peak about one, as the engine does before it solves.

    Parameters
    ----------
    operators : TorchOperators
    rows : Tensor, shape (B, R)
        Not zero.

    Returns
    -------
    scaled : Tensor, shape (B, R)
        rows / intensity.
    intensity : Tensor, shape (B, 1)
        Peak of the Tikhonov image (of its size, if no value is positive) over `TIKHONOV_PEAK`.
    """
    image = operators.tikhonov(operators.project_left(rows))
    peak = image.amax(dim=1, keepdim=True)
    peak = torch.where(peak > 0.0, peak, image.abs().amax(dim=1, keepdim=True))
    intensity = peak / TIKHONOV_PEAK
    return rows / intensity, intensity
