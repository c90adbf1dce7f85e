"""Reconstruction quality on fixed measurements, computed the way the engine reconstructs."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.fixed_point.solve import FixedPointConfig
from engine.mpi.metrics import psnr_db, ssim_global
from trainer.data.linear_operators import TorchOperators
from trainer.data.noise import add_noise, as_measurement, normalise_intensity
from trainer.models.anderson import BatchSolution
from trainer.models.reconstruction_model import ReconstructionModel


@dataclass(frozen=True)
class FixedMeasurements:
    """Measurements made once, so that figures taken at different times compare.

    Attributes
    ----------
    truth : ndarray of float32, shape (n, Ny, Nx)
    rows : Tensor, shape (n, R)
    snr : ndarray of float64, shape (n,)
        In dB (Eq. 36).
    """

    truth: NDArray[np.float32]
    rows: Tensor
    snr: NDArray[np.float64]


@dataclass(frozen=True)
class Quality:
    """Figures per measurement, each of shape (n,).

    Attributes
    ----------
    psnr : ndarray of float64
        Eq. (37), in dB.
    ssim : ndarray of float64
        Eq. (38), statistics of the whole image.
    """

    psnr: NDArray[np.float64]
    ssim: NDArray[np.float64]


def measure_once(
    truth: NDArray[np.float32], data_matrix: Tensor, snr: NDArray[np.float64], seed: int
) -> FixedMeasurements:
    """Measure images with noise that depends on nothing but the seed.

    Parameters
    ----------
    truth : ndarray of float32, shape (n, Ny, Nx)
    data_matrix : Tensor, shape (R, N)
        A_data.
    snr : ndarray of float64, shape (n,)
        In dB.
    seed : int

    Returns
    -------
    FixedMeasurements
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    images = torch.tensor(truth).flatten(1)
    clean = images @ data_matrix.cpu().T
    noisy = add_noise(clean, torch.tensor(snr), generator)
    return FixedMeasurements(truth, noisy.to(data_matrix.device), snr)


def reconstruct(
    model: ReconstructionModel, operators: TorchOperators, rows: Tensor, config: FixedPointConfig
) -> tuple[NDArray[np.float32], BatchSolution | None]:
    """Make images as the engine does: normalise, reconstruct, scale back, clip at zero.

    Parameters
    ----------
    model : ReconstructionModel
    operators : TorchOperators
    rows : Tensor, shape (n, R)
    config : FixedPointConfig

    Returns
    -------
    images : ndarray of float32, shape (n, Ny, Nx)
    solution : BatchSolution or None
        Account of the solve; None for a method without a fixed point.
    """
    scaled, intensity = normalise_intensity(operators, rows)
    x, solution = model.reconstruct(operators, as_measurement(operators, scaled), config)
    return _images(operators, (x * intensity).clamp(min=0.0)), solution


def least_squares(operators: TorchOperators, rows: Tensor) -> NDArray[np.float32]:
    """Return the linear estimates x_LS of rows (n, R), not clipped, shape (n, Ny, Nx)."""
    return _images(operators, operators.least_squares(operators.project_left(rows)))


def _images(operators: TorchOperators, x: Tensor) -> NDArray[np.float32]:
    images: NDArray[np.float32] = operators.as_images(x)[:, 0].cpu().numpy()
    return images


def assess(images: NDArray[np.float32], truth: NDArray[np.float32]) -> Quality:
    """Compare images (n, Ny, Nx) with the truth."""
    return Quality(psnr_db(images, truth), ssim_global(images, truth))
