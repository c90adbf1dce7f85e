"""The voxel grid of an image: size, field of view and centre, in MDF's axis order."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import MdfError


@dataclass(frozen=True)
class Grid:
    """A regular voxel grid, stored x fastest as in MDF (`order = "xyz"`).

    Attributes
    ----------
    size : tuple of int
        (Nx, Ny, Nz) voxels.
    field_of_view : tuple of float
        Extent along x, y, z in metres, outer voxel edges included.
    center : tuple of float
        Centre of the field of view in metres.

    Raises
    ------
    MdfError
        If a size or an extent is not positive and finite.
    """

    size: tuple[int, int, int]
    field_of_view: tuple[float, float, float]
    center: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if len(self.size) != 3 or any(n < 1 for n in self.size):
            raise MdfError(f"grid size is {self.size}; expected three positive voxel counts (Nx, Ny, Nz)")
        if len(self.field_of_view) != 3 or not all(math.isfinite(f) and f > 0 for f in self.field_of_view):
            raise MdfError(
                f"field of view is {self.field_of_view}; expected three positive lengths in metres"
            )
        if len(self.center) != 3 or not all(math.isfinite(c) for c in self.center):
            raise MdfError(
                f"field-of-view centre is {self.center}; expected three finite coordinates in metres"
            )

    @property
    def n_voxels(self) -> int:
        """Number of voxels N = Nx Ny Nz."""
        return math.prod(self.size)

    @property
    def volume_shape(self) -> tuple[int, int, int]:
        """Shape of an image volume in C order: (Nz, Ny, Nx)."""
        nx, ny, nz = self.size
        return nz, ny, nx

    @property
    def pitch(self) -> tuple[float, float, float]:
        """Voxel edge lengths in metres."""
        x, y, z = (f / n for f, n in zip(self.field_of_view, self.size, strict=True))
        return x, y, z

    def to_volume(self, vectors: NDArray[Any]) -> NDArray[Any]:
        """Reshape (..., N) voxel vectors of any type to (..., Nz, Ny, Nx) volumes (a view where possible)."""
        return vectors.reshape(*vectors.shape[:-1], *self.volume_shape)

    def to_vector(self, volumes: NDArray[Any]) -> NDArray[Any]:
        """Reshape (..., Nz, Ny, Nx) volumes of any type to (..., N) voxel vectors (a view where possible)."""
        return volumes.reshape(*volumes.shape[:-3], self.n_voxels)

    def positions(self) -> NDArray[np.float64]:
        """Voxel centres in metres, float64 (N, 3), x fastest."""
        axes = [
            c - f / 2 + (np.arange(n) + 0.5) * (f / n)
            for n, f, c in zip(self.size, self.field_of_view, self.center, strict=True)
        ]
        z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
        return np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1)

    def refined(self, factor: int) -> "Grid":
        """Return the grid with `factor` times as many voxels along each axis that has more than one."""
        nx, ny, nz = (n * factor if n > 1 else 1 for n in self.size)
        return Grid((nx, ny, nz), self.field_of_view, self.center)
