"""What a run trains on: operators, the model that makes the data, and the two sets of images."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.calibration.calibrate import CalibrationConfig, make_operators, system_matrix_from_mdf
from engine.errors import ConfigError
from engine.mpi.grid import Grid
from engine.mpi.mdf import read_mdf
from engine.mpi.simulation.phantoms import Split, vessel_images
from engine.mpi.simulation.scan import preset_scanner, simulate_calibration
from engine.mpi.simulation.scanner import PRESETS
from engine.mpi.system_matrix import SystemMatrix
from engine.operators.operators import Operators
from trainer.config import DataConfig
from trainer.data.angiography import angiogram_images
from trainer.data.dataset import PhantomSet, require_images
from trainer.data.linear_operators import TorchOperators


@dataclass(frozen=True)
class TrainingScan:
    """One system matrix seen twice: to make data with, and to reconstruct from them.

    Attributes
    ----------
    operators : Operators
        Of the reconstruction.
    data_matrix : ndarray of float32, shape (R, N)
        A_data, in the unit of `operators.system_matrix`.
    """

    operators: Operators
    data_matrix: NDArray[np.float32]


@dataclass(frozen=True)
class Problem:
    """A scan and its images on one device.

    Attributes
    ----------
    operators : TorchOperators
    data_matrix : Tensor, shape (R, N)
        A_data of y = A_data x + n.
    train : PhantomSet
    validation : ndarray of float32, shape (n, Ny, Nx)
    """

    operators: TorchOperators
    data_matrix: Tensor
    train: PhantomSet
    validation: NDArray[np.float32]

    def measure(self, images: Tensor) -> Tensor:
        """Noise-free rows (B, R) of images (B, Ny, Nx)."""
        return images.flatten(1) @ self.data_matrix.T


def make_scan(system_matrix: SystemMatrix, *, smooth: bool, rank: int | None = None) -> TrainingScan:
    """Prepare a system matrix for making and reconstructing data.

    Parameters
    ----------
    system_matrix : SystemMatrix
        A_meas, which makes the data (Sec. IV-D).
    smooth : bool
        Reconstruct with A_meas U D, else with A_meas itself.
    rank : int, optional
        Of the least-squares start.

    Returns
    -------
    TrainingScan
    """
    operators = make_operators(system_matrix.smoothed() if smooth else system_matrix, rank)
    data_matrix = np.ascontiguousarray(system_matrix.real_rows() / operators.scale, np.float32)
    return TrainingScan(operators, data_matrix)


def load_scan(config: DataConfig) -> TrainingScan:
    """Simulate or read the system matrix that a configuration names.

    Raises
    ------
    ConfigError
        If `system_matrix` is neither a preset nor a file.
    """
    name = config.system_matrix
    if name in PRESETS:
        source = simulate_calibration(preset_scanner(name), config.system_matrix_seed)
    elif Path(name).is_file():
        source = read_mdf(name)
    else:
        raise ConfigError(
            f"data.system_matrix is {name!r}; expected one of {', '.join(PRESETS)} or an existing MDF file"
        )
    system_matrix = system_matrix_from_mdf(source, CalibrationConfig())
    return make_scan(system_matrix, smooth=config.smooth, rank=config.rank)


def load_images(config: DataConfig, split: Split, count: int, grid: Grid) -> NDArray[np.float32]:
    """Make phantoms (count, Ny, Nx) of peak 1 from the source that a configuration names.

    Errors are those of `engine.mpi.simulation.phantoms.vessel_images` and
    `trainer.data.angiography.angiogram_images`.
    """
    if config.angiograms is None:
        return vessel_images(split, count, grid, config.phantom_seed)
    return angiogram_images(config.angiograms, split, count, grid, config.phantom_seed)


def load_problem(config: DataConfig, device: torch.device) -> Problem:
    """Build the scan and the training and validation images of a configuration."""
    scan = load_scan(config)
    grid = scan.operators.grid
    train = load_images(config, "train", config.train, grid)
    validation = load_images(config, "validation", config.validation, grid)
    return make_problem(scan, train, validation, config, device)


def make_problem(
    scan: TrainingScan,
    train: NDArray[np.float32],
    validation: NDArray[np.float32],
    config: DataConfig,
    device: torch.device,
) -> Problem:
    """Put a scan and images (n, Ny, Nx) of peak 1 on a device.

    Raises
    ------
    ConfigError
        If an image holds NaN or infinity, has no contrast, or is not of the scan's grid.
    """
    grid = scan.operators.grid
    nx, ny, nz = grid.size
    for name, images in (("training", train), ("validation", validation)):
        require_images(images, name)
        if nz != 1 or images.shape[1:] != (ny, nx):
            raise ConfigError(
                f"{name} images of (Ny, Nx) = {images.shape[1:]} for a system matrix on a grid of "
                f"(Nx, Ny, Nz) = {grid.size}; expected one slice and images of ({ny}, {nx}): make them for "
                "the grid of the system matrix"
            )
    return Problem(
        operators=TorchOperators(scan.operators).to(device),
        data_matrix=torch.tensor(scan.data_matrix, device=device),
        train=PhantomSet(train, config.intensity, device),
        validation=validation,
    )
