"""Learned blocks bound to arrays that stay where they are; on the CPU a call then copies nothing."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.arrays import Float32Array
from engine.errors import PairingError

BoundBlock = Callable[[], NDArray[Any]]
"""Runs a block on the arrays that it was bound to; what it returns is valid until the next call."""


def bind(
    name: str, block: Callable[..., NDArray[Any]], *arrays: Float32Array, frames: int | None = None
) -> BoundBlock:
    """Return a call of a block on these arrays, which checks that the output has the first one's shape.

    Parameters
    ----------
    name : str
        Of the block, for errors.
    block : ImagePrior or Consistency
        If it has a method `bind`, that makes the call; any callable will do.
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
