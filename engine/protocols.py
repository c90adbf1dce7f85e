"""What the fixed-point map needs of its two learned blocks; any callable of these shapes will do."""

from typing import Any, Protocol

from numpy.typing import NDArray

from engine.arrays import Float32Array


class ImagePrior(Protocol):
    """Psi_RDN of Eq. (16): the regulariser of images."""

    def __call__(self, v: Float32Array, noise: Float32Array, /) -> NDArray[Any]:
        """Regularise images.

        Parameters
        ----------
        v : ndarray of float32, shape (B, 1, Ny, Nx)
            x - d1, peak about 1. The caller reuses the arrays: do not keep or change them.
        noise : ndarray of float32, shape (B, 1, 1, 1)
            Standard deviation sigma of each real row of the normalised measurements; a prior may ignore it.

        Returns
        -------
        ndarray, shape (B, 1, Ny, Nx)
            z1.
        """
        ...


class Consistency(Protocol):
    """Psi_LC of Eq. (15): the block that keeps A x near the measurement, epsilon ball included."""

    def __call__(
        self, v: Float32Array, y: Float32Array, mask: Float32Array, epsilon: Float32Array, /
    ) -> NDArray[Any]:
        """Make data consistent with the measurement.

        Parameters
        ----------
        v : ndarray of float32, shape (B, 2, n_lines, n_bins)
            A x - d0 in the dense layout (`RowLayout`), zero where no row is selected. All four arrays are
            reused by the caller: do not keep or change them.
        y : ndarray of float32, shape (B, 2, n_lines, n_bins)
            Measured data, same layout.
        mask : ndarray of float32, shape (1, 1, n_lines, n_bins)
            1 where a row is selected, else 0.
        epsilon : ndarray of float32, shape (B, 1, 1, 1)
            Bound on ||z0 - y||.

        Returns
        -------
        ndarray, shape (B, 2, n_lines, n_bins)
            z0.
        """
        ...
