"""Proximal maps of the hand-crafted image priors (Eq. 11), for many images at once.

Each minimises ||x - v||^2 / 2 + R(x) over x >= 0, where R holds the weights. The differences of neighbours
in TV are per voxel, whatever the voxel's size.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.errors import ConfigError
from engine.solvers.admm.total_variation import denoise_total_variation

TV_TOLERANCE = 1e-4
"""Bound on the relative error of `prox_tv` unless the caller sets one."""

TV_ITERATIONS = 20_000
"""Most iterations of `prox_tv`, where rounding keeps the bound from being met; some hundred are usual."""


def prox_l1(v: NDArray[np.floating], weight: ArrayLike) -> NDArray[np.floating]:
    """Proximal map of weight ||x||_1 + indicator(x >= 0): the soft threshold max(v - weight, 0).

    Parameters
    ----------
    v : ndarray of float, shape (F, Ny, Nx)
        Images.
    weight : float or array of shape (F,)
        Weight of each image, non-negative, in image units.

    Returns
    -------
    ndarray of float, shape (F, Ny, Nx)
        Images x, in the dtype of `v`.

    Raises
    ------
    ConfigError
        If a weight is negative or not finite.
    """
    threshold = _per_frame("l1", weight, len(v)).astype(v.dtype)
    out: NDArray[np.floating] = np.maximum(v - threshold[:, None, None], 0)
    return out


def prox_tv(
    v: NDArray[np.floating],
    weight: ArrayLike,
    *,
    tolerance: float = TV_TOLERANCE,
    max_iterations: int = TV_ITERATIONS,
    dual: NDArray[np.float64] | None = None,
) -> NDArray[np.floating]:
    """Proximal map of weight TV(x) + indicator(x >= 0), TV isotropic (`engine.solvers.admm.total_variation`).

    Parameters
    ----------
    v : ndarray of float, shape (F, Ny, Nx)
        Images.
    weight : float or array of shape (F,)
        Weight of each image, non-negative, in image units.
    tolerance : float, optional
        Error at which an image is finished: ||x - x*|| <= tolerance ||v|| is certain from the duality gap.
        The true error is usually smaller by one or two orders.
    max_iterations : int, optional
        Number of iterations after which an image is finished too, without that certainty.
    dual : ndarray of float64, shape (F, 2, Ny, Nx), C-contiguous, optional
        Dual solution to start from; replaced by the one found. Zeros at first; that of the last call where
        v changes little from call to call.

    Returns
    -------
    ndarray of float, shape (F, Ny, Nx)
        Images x, in the dtype of `v`.

    Raises
    ------
    ConfigError
        If a weight is negative or not finite.
    """
    image = np.ascontiguousarray(v, np.float64)
    n_frames, ny, nx = image.shape
    if dual is None:
        dual = np.zeros((n_frames, 2, ny, nx))
    out = np.empty_like(image)
    weights = _per_frame("tv", weight, n_frames)
    denoise_total_variation(image, weights, dual, out, tolerance, max_iterations)
    return out.astype(v.dtype, copy=False)


def prox_hybrid(
    v: NDArray[np.floating],
    l1: ArrayLike,
    tv: ArrayLike,
    *,
    tolerance: float = TV_TOLERANCE,
    max_iterations: int = TV_ITERATIONS,
    dual: NDArray[np.float64] | None = None,
) -> NDArray[np.floating]:
    """Proximal map of l1 ||x||_1 + tv TV(x) + indicator(x >= 0).

    Where x >= 0, ||x||_1 is the sum of x, which only shifts v: the map is prox_tv(v - l1, tv), exactly.
    Parameters, result and errors are as for `prox_tv`: images of float (F, Ny, Nx), weights of shape (F,).
    """
    shifted = v - _per_frame("l1", l1, len(v))[:, None, None].astype(v.dtype)
    return prox_tv(shifted, tv, tolerance=tolerance, max_iterations=max_iterations, dual=dual)


def _per_frame(name: str, weight: ArrayLike, n_frames: int) -> NDArray[np.float64]:
    weights = np.full(n_frames, weight, np.float64)
    if not np.all((weights >= 0) & (weights < np.inf)):
        raise ConfigError(f"the {name} weight is {weights.tolist()}; expected finite, non-negative numbers")
    return weights
