"""The system matrix of a scan: whitened complex rows on a voxel grid, and its changes of resolution."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.errors import SelectionError
from engine.mpi.grid import Grid
from engine.mpi.preprocess import stack_real
from engine.mpi.resampling import bicubic_upsampling, box_downsampling
from engine.mpi.row_layout import Acquisition, RowLayout


@dataclass(frozen=True)
class SystemMatrix:
    """The selected rows of a measured or simulated system matrix, in units of their noise.

    Attributes
    ----------
    rows : ndarray of complex128, shape (M, N)
        Signal per unit concentration in each voxel divided by `noise_std`. Order of the rows: (period,
        receive channel, frequency bin), bin fastest. Columns: voxels, x fastest.
    grid : Grid
        Voxel grid, N voxels.
    layout : RowLayout
        Place of each row in the dense layout.
    acquisition : Acquisition
        Settings that a measurement must match.
    noise_std : ndarray of float64, shape (M,)
        Noise standard deviation per real component of each row, in the unit of the raw spectra.

    Raises
    ------
    SelectionError
        If no row is left, shapes contradict each other, or a value is not finite or a noise level not
        positive.
    """

    rows: NDArray[np.complex128]
    grid: Grid
    layout: RowLayout
    acquisition: Acquisition
    noise_std: NDArray[np.float64]

    def __post_init__(self) -> None:
        expected = (self.layout.n_rows, self.grid.n_voxels)
        if self.layout.n_rows == 0:
            raise SelectionError("the system matrix has no rows; expected at least one, select more of them")
        if self.rows.shape != expected or self.noise_std.shape != expected[:1]:
            raise SelectionError(
                f"system matrix of shape {self.rows.shape} with {self.noise_std.shape} noise levels; "
                f"expected {expected} and {expected[:1]} from its row layout and grid"
            )
        if not np.all(np.isfinite(self.rows)):
            raise SelectionError("the system matrix holds NaN or infinity; expected finite signals")
        if not (np.all(np.isfinite(self.noise_std)) and np.all(self.noise_std > 0)):
            raise SelectionError("a noise level is zero or not finite; expected positive noise in every row")

    def real_rows(self) -> NDArray[np.float64]:
        """Return the real-stacked matrix [Re; Im], float64 (2M, N)."""
        return stack_real(self.rows.T).T.astype(np.float64)

    def upsampled(self, factor: int) -> "SystemMatrix":
        """Return the system matrix on the grid refined by `factor`, interpolated bicubically.

        The columns are those of A U / s^d (d: axes of more than one voxel): a fine voxel holds s^-d of the
        particles of a coarse one at the same concentration, so images keep the unit of concentration and a
        constant image gives the same data on both grids.

        Parameters
        ----------
        factor : int
            Refinement s per axis; 1 returns an equal matrix.

        Returns
        -------
        SystemMatrix
        """
        fine = self.grid.refined(factor)
        weights = bicubic_upsampling(self.grid.volume_shape, factor) * (self.grid.n_voxels / fine.n_voxels)
        return replace(self, rows=np.ascontiguousarray(self.rows @ weights), grid=fine)

    def smoothed(self, factor: int = 2) -> "SystemMatrix":
        """Return A U D, the matrix to reconstruct data emulated with A from (Eq. 35 and Sec. IV-D).

        It carries the difference between a system function and its interpolation from a coarse grid, so
        that data made with A are never inverted by the matrix that made them.

        Parameters
        ----------
        factor : int, optional
            Refinement between the two resamplings.

        Returns
        -------
        SystemMatrix
            On the same grid, with columns of the same scale.
        """
        shape = self.grid.volume_shape
        weights = bicubic_upsampling(shape, factor) @ box_downsampling(shape, factor)
        return replace(self, rows=np.ascontiguousarray(self.rows @ weights))
