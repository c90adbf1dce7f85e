"""The operators of one system matrix as torch buffers, for batches of voxel vectors and data rows."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.errors import OperatorsError
from engine.operators.operators import Operators


class TorchOperators(nn.Module):
    """A, M, M A^T and the singular parts of `engine.operators.operators.Operators`; R real rows, N voxels.

    All buffers are constants of the problem: they follow `.to(...)` and stay out of the state dict.

    Parameters
    ----------
    operators : Operators
        From `engine.calibration.calibrate.make_operators` or
        `engine.operators.operators_file.load_operators`.
    dtype : torch.dtype, optional
        float32 for training, float64 for numerical checks.

    Attributes
    ----------
    image_shape : tuple of int
        (Ny, Nx).
    layout_shape : tuple of int
        (n_lines, n_bins) of the dense data layout.

    Raises
    ------
    OperatorsError
        If the grid has more than one slice: the networks are two-dimensional; or if the operators hold
        singular triplets in place of the system matrix.
    """

    system_matrix: Tensor
    weighted_adjoint: Tensor
    inverse: Tensor
    left_singular: Tensor
    start_matrix: Tensor
    tikhonov_matrix: Tensor
    index: Tensor
    mask: Tensor

    def __init__(self, operators: Operators, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        nx, ny, nz = operators.grid.size
        if nz != 1:
            raise OperatorsError(
                f"the grid has {nz} slices; the networks need one (Nz = 1): calibrate on a 2-D grid"
            )
        if operators.dense is None:
            raise OperatorsError(
                f"the operators hold {operators.n_triplets} singular triplets in place of the system matrix; "
                "training needs the matrix: run engine calibrate without --factors"
            )
        self.image_shape = (ny, nx)
        self.layout_shape = operators.layout.shape
        s = operators.singular_values
        constants: dict[str, NDArray[np.floating]] = {
            "system_matrix": operators.system_matrix,
            "weighted_adjoint": operators.weighted_adjoint,
            "inverse": operators.inverse,
            "left_singular": operators.left_singular,
            "start_matrix": operators.start_matrix,
            "tikhonov_matrix": operators.right_singular * (s / (1.0 + s**2)),
            "mask": operators.layout.mask[None, None],
        }
        for name, values in constants.items():
            self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)
        index = torch.tensor(operators.layout.index, dtype=torch.int64)
        self.register_buffer("index", index, persistent=False)

    @property
    def n_rows(self) -> int:
        """Number R of real rows."""
        return self.system_matrix.shape[0]

    @property
    def n_voxels(self) -> int:
        """Number N of voxels."""
        return self.system_matrix.shape[1]

    def forward_project(self, x: Tensor) -> Tensor:
        """Return A x: (B, N) -> (B, R)."""
        return x @ self.system_matrix.T

    def reconcile(self, rows: Tensor, image: Tensor) -> Tensor:
        """Return M (A^T r + u), Eq. (7): (B, R), (B, N) -> (B, N)."""
        return rows @ self.weighted_adjoint.T + image @ self.inverse.T

    def project_left(self, rows: Tensor) -> Tensor:
        """Return U^T r, the part of the data that some image explains: (B, R) -> (B, N)."""
        return rows @ self.left_singular.T

    def least_squares(self, explained: Tensor) -> Tensor:
        """Return x_LS by the truncated pseudo-inverse, from U^T y: (B, N) -> (B, N)."""
        return explained[:, : self.start_matrix.shape[1]] @ self.start_matrix.T

    def tikhonov(self, explained: Tensor) -> Tensor:
        """Return V diag(s / (1 + s^2)) U^T y = M A^T y, from U^T y: (B, N) -> (B, N)."""
        return explained @ self.tikhonov_matrix.T

    def scatter(self, rows: Tensor) -> Tensor:
        """Place rows (B, R) in the dense layout (B, 2, n_lines, n_bins), zeros elsewhere."""
        lines, bins = self.layout_shape
        # The parts innermost in memory (channels_last), as the convolutions of Psi_LC want them.
        dense = rows.new_zeros(len(rows), lines * bins, 2)
        dense = dense.index_copy(1, self.index, rows.reshape(len(rows), 2, -1).transpose(1, 2))
        return dense.reshape(len(rows), lines, bins, 2).permute(0, 3, 1, 2)

    def gather(self, dense: Tensor) -> Tensor:
        """Take the selected rows (B, R) out of the dense layout (B, 2, n_lines, n_bins)."""
        places = dense.permute(0, 2, 3, 1).flatten(1, 2).index_select(1, self.index)
        return places.transpose(1, 2).flatten(1)

    def as_images(self, x: Tensor) -> Tensor:
        """View voxel vectors (B, N) as network images (B, 1, Ny, Nx)."""
        return x.reshape(len(x), 1, *self.image_shape)
