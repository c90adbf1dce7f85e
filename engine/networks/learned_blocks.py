"""Protocols of the two learned blocks of the fixed-point map; any callable of these shapes will do.

Bound to arrays that stay where they are, a call of a block on the CPU copies nothing.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.arrays import Float32Array
from engine.errors import PairingError


class ImagePrior(Protocol):
    """Psi_RDN of Eq. (16): the regulariser of images."""

    def __call__(self, v: Float32Array, noise: Float32Array, /) -> NDArray[Any]:
        """Regularise images.

        Parameters
        ----------
        v : ndarray of float32, shape (B, 1, Ny, Nx)
            Images x - d1, peak about 1. The caller reuses the arrays: do not keep or change them.
        noise : ndarray of float32, shape (B, 1, 1, 1)
            Standard deviation sigma of each real row of the normalised measurements; a prior may ignore it.

        Returns
        -------
        ndarray of float32, shape (B, 1, Ny, Nx)
            Regularised images z1.
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
            Data A x - d0 in the dense layout (`RowLayout`), zero where no row is selected. All four arrays
            are reused by the caller: do not keep or change them.
        y : ndarray of float32, shape (B, 2, n_lines, n_bins)
            Measured data, same layout.
        mask : ndarray of float32, shape (1, 1, n_lines, n_bins)
            Mask: 1 where a row is selected, else 0.
        epsilon : ndarray of float32, shape (B, 1, 1, 1)
            Bound on ||z0 - y||.

        Returns
        -------
        ndarray of float32, shape (B, 2, n_lines, n_bins)
            Consistent data z0.
        """
        ...


BoundBlock = Callable[[], NDArray[Any]]
"""A block bound to arrays: a call runs it on them; what it returns is valid until the next call."""


def bind(
    name: str, block: Callable[..., NDArray[Any]], *arrays: Float32Array, frames: int | None = None
) -> BoundBlock:
    """Return a call of a block on these arrays, which checks that the output has the first one's shape.

    Parameters
    ----------
    name : str
        Name of the block, for errors.
    block : ImagePrior or Consistency
        Block, or any callable; one that has a method `bind` makes the call itself.
    *arrays : ndarray of float32
        Inputs in call order, one row per frame, or a single one for all. Their content may change between
        calls, their place may not.
    frames : int, optional
        Most frames that the block gets at a time; by default all. Features of few frames stay in the cache.

    Raises
    ------
    PairingError
        When called, if the block returns another shape.
    """
    n_frames = len(arrays[0])
    if frames is None or n_frames <= frames:
        return _bind_whole(name, block, arrays)
    parts = [slice(first, min(first + frames, n_frames)) for first in range(0, n_frames, frames)]
    calls = [
        _bind_whole(name, block, tuple(array[part] if len(array) == n_frames else array for array in arrays))
        for part in parts
    ]
    joined: NDArray[Any] = np.empty_like(arrays[0])

    def run() -> NDArray[Any]:
        for part, call in zip(parts, calls, strict=True):
            joined[part] = call()
        return joined

    return run


def _bind_whole(
    name: str, block: Callable[..., NDArray[Any]], arrays: tuple[Float32Array, ...]
) -> BoundBlock:
    own = getattr(block, "bind", None)
    run: BoundBlock = partial(block, *arrays) if own is None else own(*arrays)
    expected = arrays[0].shape

    def checked() -> NDArray[Any]:
        found = run()
        if found.shape != expected:
            raise PairingError(
                f"the {name} returned an array of shape {found.shape}; expected its input's shape "
                f"{expected}; use a bundle made for these operators"
            )
        return found

    return checked
