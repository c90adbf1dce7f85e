"""Check that operators and a method make a sensible image of data that they must be able to handle."""

import numpy as np

from engine.arrays import Float32Array
from engine.errors import LiveError
from engine.operators.operators import Operators
from engine.reconstruction.reconstructor import Reconstructor

CHECK_SNR_DB = 25.0
"""SNR of the made-up measurement (Eq. 36)."""

BLOB_WIDTH = 1 / 8
"""Standard deviation of the blob, as a share of the field of view."""

LEAST_AGREEMENT = 0.5
"""Least cosine between image and blob. On the reference scanner all that ship have 0.92 and more, on twenty
voxels the noisiest has 0.74; positive noise has about 0.3."""


def require_working(reconstructor: Reconstructor) -> float:
    """Reconstruct a blob measured by the operators themselves; return the cosine between image and blob.

    Two solves are made, so that compiled parts and buffers are ready for the first frame.

    Parameters
    ----------
    reconstructor : Reconstructor
        Reconstructor to be checked.

    Raises
    ------
    LiveError
        If the image is not that of the blob.
    DeqMpiError
        If the method raises one.
    """
    blob = _blob(reconstructor.operators)
    rows = _measured(blob, reconstructor.operators)
    reconstructor.reconstruct(rows)
    image = reconstructor.operators.grid.to_vector(reconstructor.reconstruct(rows).image)
    size = float(np.linalg.norm(image) * np.linalg.norm(blob))
    agreement = float(image @ blob) / size if size > 0 else 0.0
    if not agreement >= LEAST_AGREEMENT:
        raise LiveError(
            f"the image of a made-up blob agrees with it by {agreement:.2f}; expected at least "
            f"{LEAST_AGREEMENT}; operators and model do not work together: calibrate again or use "
            "another model"
        )
    return agreement


def _blob(operators: Operators) -> Float32Array:
    grid = operators.grid
    places = (grid.positions() - np.array(grid.center)) / np.array(grid.field_of_view)
    blob: Float32Array = np.exp(-np.sum(places**2, axis=1) / (2 * BLOB_WIDTH**2)).astype(np.float32)
    return blob


def _measured(blob: Float32Array, operators: Operators) -> Float32Array:
    """Whitened rows, float32 (R,), of the blob (N,) at `CHECK_SNR_DB`, with noise as in the calibration."""
    rows = (operators.singular_values * (blob @ operators.right_singular)) @ operators.left_singular
    level = 10 ** (CHECK_SNR_DB / 20) * np.sqrt(operators.n_rows) / np.linalg.norm(rows)
    noise = np.random.default_rng(0).standard_normal(operators.n_rows)
    measured: Float32Array = (level * rows + noise).astype(np.float32)
    return measured
