"""From raw spectra to the rows of the linear system: background, noise, row selection, real stacking."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def stack_real(rows: NDArray[np.complexfloating[Any, Any]]) -> NDArray[np.floating[Any]]:
    """Stack complex rows (..., M) as real ones (..., 2M), real parts first."""
    return np.concatenate([rows.real, rows.imag], axis=-1)


def unstack_real(rows: NDArray[np.floating[Any]]) -> NDArray[np.complexfloating[Any, Any]]:
    """Undo `stack_real`: real-stacked rows (..., 2M) to complex ones (..., M)."""
    half = rows.shape[-1] // 2
    return rows[..., :half] + 1j * rows[..., half:]
