"""What an MDF file means: spectra, bins, frequencies, frames in grid order, grids and images.

Nothing here corrects anything: background subtraction and transfer functions are left to the caller, whose
decision depends on the flags of `Measurement`. Bins and frames are 0-based.
"""

import numpy as np
from numpy.typing import NDArray

from engine.mpi.mdf_grids import calibration_grid, calibration_of, grid_frames, images, reconstruction_grid
from engine.mpi.mdf_model import MdfFile
from engine.mpi.mdf_spectra import (
    acquisition_slots,
    background_mask,
    bins,
    frequencies,
    on_stored_bins,
    spectra,
)

__all__ = [
    "acquisition_slots",
    "background_mask",
    "bins",
    "calibration_grid",
    "calibration_snr",
    "calibration_spectra",
    "frequencies",
    "grid_frames",
    "images",
    "reconstruction_grid",
    "spectra",
    "transfer_function",
]


def calibration_spectra(
    file: MdfFile, keep_bins: NDArray[np.int64] | None = None
) -> NDArray[np.complexfloating]:
    """Return the foreground spectra of a calibration in grid order, shape (O, J, C, K); see `spectra`."""
    return spectra(file, keep_bins)[grid_frames(file)]


def calibration_snr(file: MdfFile) -> NDArray[np.float64] | None:
    """Return the stored signal-to-noise ratio on the stored bins, shape (J, C, K), or None."""
    snr = calibration_of(file).snr
    return None if snr is None else on_stored_bins(file, snr)


def transfer_function(file: MdfFile) -> NDArray[np.complex128] | None:
    """Return the stored transfer function on the stored bins, shape (C, K), or None."""
    function = file.acquisition.receiver.transfer_function
    return None if function is None else on_stored_bins(file, function)
