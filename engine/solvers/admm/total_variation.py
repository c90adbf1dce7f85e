"""Non-negative total variation denoising, solved on its dual by fast gradient projection.

The problem is min_x ||x - v||^2 / 2 + w TV(x) over x >= 0, with the isotropic total variation of forward
differences, which are zero across the border. Its dual has one vector p of length at most 1 per voxel, and
x = max(v - w grad^T p, 0). Beck and Teboulle (IEEE Trans. Image Process. 18, 2009) climb the dual by
accelerated projected gradients; the momentum is dropped whenever it points downhill (O'Donoghue and Candes,
Found. Comput. Math. 15, 2015), which makes the late iterations several times as fast.

Any p bounds the error of its x: the duality gap is w sum(|grad x| - p . grad x), the problem is strongly
convex, so ||x - x*||^2 / 2 is at most the gap. That is the stopping rule.
"""

import math

import numpy as np
from numpy.typing import NDArray

from engine.machine.compiled import kernel

CHECK_EVERY = 5
"""Iterations between two computations of the duality gap, which costs most of an iteration."""


@kernel("void(float64[:,:,::1], float64[::1], float64[:,:,:,::1], float64[:,:,::1], float64, int64)")
def denoise_total_variation(
    v: NDArray[np.float64],
    weight: NDArray[np.float64],
    dual: NDArray[np.float64],
    out: NDArray[np.float64],
    tolerance: float,
    max_iterations: int,
) -> None:
    """Minimise ||x - v||^2 / 2 + weight TV(x) over x >= 0 for every frame.

    Parameters
    ----------
    v : ndarray of float64, shape (F, Ny, Nx)
        Images.
    weight : ndarray of float64, shape (F,)
        Weight of each frame, non-negative.
    dual : ndarray of float64, shape (F, 2, Ny, Nx)
        Dual to start from: p along y and x, at most 1 long, zero across the border. Replaced by the last one.
    out : ndarray of float64, shape (F, Ny, Nx)
        Output x.
    tolerance : float
        Error at which a frame ends: ||x - x*|| <= tolerance ||v|| is certain.
    max_iterations : int
        Number of iterations after which a frame ends at the latest.
    """
    # Rows are laid out one after the other with one voxel of padding at each end of a row, and a row of it at
    # each end of the image. So the neighbours of voxel k are k + 1 and k + width, every loop is one straight
    # run over memory, and differences across the border are taken out by the steps' being zero there.
    n_frames, ny, nx = v.shape
    width = nx + 1
    n = ny * width
    padded = np.zeros((5, n + 2 * width))
    p_y, p_x = padded[0, width : width + n], padded[1, width : width + n]
    p_y_before, p_x_before = padded[0, :n], padded[1, width - 1 : width - 1 + n]
    # The extrapolated dual, at which the gradient is taken.
    r_y, r_x = padded[2, width : width + n], padded[3, width : width + n]
    r_y_before, r_x_before = padded[2, :n], padded[3, width - 1 : width - 1 + n]
    x = padded[4, width : width + n]
    x_below, x_right = padded[4, 2 * width :], padded[4, width + 1 : width + 1 + n]
    image, inner_y, inner_x = np.zeros(n), np.zeros(n), np.zeros(n)
    for i in range(ny):
        for j in range(nx):
            inner_y[i * width + j] = 1.0 if i + 1 < ny else 0.0
            inner_x[i * width + j] = 1.0 if j + 1 < nx else 0.0

    for frame in range(n_frames):
        w = weight[frame]
        squared = 0.0
        for i in range(ny):
            for j in range(nx):
                k = i * width + j
                image[k] = v[frame, i, j]
                squared += image[k] * image[k]
                p_y[k] = dual[frame, 0, i, j]
                p_x[k] = dual[frame, 1, i, j]
                r_y[k] = p_y[k]
                r_x[k] = p_x[k]
        allowed_gap = 0.5 * tolerance * tolerance * squared
        step = 1.0 / (8.0 * w)  # 8 bounds the squared norm of the gradient
        momentum = 1.0
        for iteration in range(max_iterations + 1):
            if iteration % CHECK_EVERY == 0 or iteration == max_iterations:
                for k in range(n):
                    u = image[k] - w * (p_y_before[k] - p_y[k] + p_x_before[k] - p_x[k])
                    x[k] = 0.0 if u < 0.0 else u  # keeps NaN
                gap = 0.0
                for k in range(n):
                    g_y = inner_y[k] * (x_below[k] - x[k])
                    g_x = inner_x[k] * (x_right[k] - x[k])
                    gap += math.sqrt(g_y * g_y + g_x * g_x) - p_y[k] * g_y - p_x[k] * g_x
                if not w * gap > allowed_gap or iteration == max_iterations:  # ends with NaN too
                    break
            for k in range(n):
                u = image[k] - w * (r_y_before[k] - r_y[k] + r_x_before[k] - r_x[k])
                x[k] = 0.0 if u < 0.0 else u
            next_momentum = 0.5 * (1.0 + math.sqrt(1.0 + 4.0 * momentum * momentum))
            ahead = (momentum - 1.0) / next_momentum
            downhill = 0.0
            for k in range(n):
                q_y = r_y[k] + step * inner_y[k] * (x_below[k] - x[k])
                q_x = r_x[k] + step * inner_x[k] * (x_right[k] - x[k])
                length = q_y * q_y + q_x * q_x
                shorten = 1.0 / math.sqrt(1.0 if length < 1.0 else length)
                q_y *= shorten
                q_x *= shorten
                change_y = q_y - p_y[k]
                change_x = q_x - p_x[k]
                downhill += (r_y[k] - q_y) * change_y + (r_x[k] - q_x) * change_x
                r_y[k] = q_y + ahead * change_y
                r_x[k] = q_x + ahead * change_x
                p_y[k] = q_y
                p_x[k] = q_x
            momentum = 1.0 if downhill > 0.0 else next_momentum
        for i in range(ny):
            for j in range(nx):
                k = i * width + j
                out[frame, i, j] = x[k]
                dual[frame, 0, i, j] = p_y[k]
                dual[frame, 1, i, j] = p_x[k]
