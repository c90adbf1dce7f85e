"""The algebraic reconstruction technique: Tikhonov-regularised Kaczmarz sweeps over the rows."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from engine.arrays import Float32Array
from engine.errors import ConfigError
from engine.fixed_point.plain_iteration import iterate_plain
from engine.fixed_point.solution import Result, Solution
from engine.machine.compiled import kernel
from engine.measurement.normalization import NormalizedMeasurement
from engine.operators.operators import Operators
from engine.solvers.regularization import MethodWeights
from engine.solvers.weighted_frames import (
    check_tolerance,
    check_weights,
    solution_per_frame,
    weights_per_frame,
)

RowOrder = Literal["sequential", "shuffled", "random"]
RowWeighting = Literal["none", "l2"]

FRAMES_TOGETHER = 16
"""Most frames that share a pass over the matrix: their images, 22 KB at 338 voxels, stay in the L1 cache."""

LANES = 16
"""Multiple to which rows are filled up with zeros, so that no loop over voxels leaves a remainder."""


class Kaczmarz:
    """Regularised Kaczmarz sweeps from x = 0; negative values are set to zero after each sweep.

    min ||A x - y||^2 + lambda ||x||^2 is the smallest solution (x, v) of A x + sqrt(lambda) v = y, which has
    solutions for every y. A row update projects (x, v) onto the hyperplane of that row (Herman, Lent &
    Hurwitz, J. Inst. Math. Appl. 25, 1980; Knopp et al., Phys. Med. Biol. 55, 2010). Where nothing is ever
    clipped the sweeps converge to the Tikhonov image. Where something is, they are alternating projections
    between convex sets: they converge to a non-negative image, which depends on the order of the rows and
    is in general not the best non-negative one. They usually stop long before, and their number regularises
    too.

    Parameters
    ----------
    operators : Operators
        Operators of the system matrix.
    weights : MethodWeights
        Weight `lambda`, for A of norm `SPECTRAL_NORM`, and the number of sweeps.
    row_order : {"sequential", "shuffled", "random"}, optional
        Order: as stored; in a new permutation each sweep; or drawn with a probability proportional to the
        squared norm (Strohmer & Vershynin, J. Fourier Anal. Appl. 15, 2009), R of them per sweep.
    row_weighting : {"none", "l2"}, optional
        Weighting: "l2" divides every row and its datum by the row's norm (Knopp et al. 2010). This is another
        least-squares problem, in which weak rows count as much as strong ones, and `lambda` belongs to it.
    seed : int, optional
        Seed of permutations and draws. Every solve starts from it, so equal data give equal images.
    tolerance : float, optional
        Share of its norm by which a sweep changes the image of a frame that ends; 0 does all sweeps.

    Raises
    ------
    ConfigError
        If the weights are not this method's, or a setting is unknown or impossible.
    """

    method = "art"

    def __init__(
        self,
        operators: Operators,
        weights: MethodWeights,
        row_order: RowOrder = "shuffled",
        row_weighting: RowWeighting = "none",
        seed: int = 0,
        tolerance: float = 0.0,
    ) -> None:
        check_weights(self.method, weights, "lambda")
        check_tolerance(tolerance)
        _check_choice("row_order", row_order, get_args(RowOrder))
        _check_choice("row_weighting", row_weighting, get_args(RowWeighting))
        if seed < 0:
            raise ConfigError(f"seed is {seed!r}; expected a non-negative integer")
        self.operators = operators
        self.weights = weights
        self.tolerance = tolerance
        self.row_order, self.row_weighting, self.seed = row_order, row_weighting, seed
        self._scales, self._rows, self._energies = _weighted_rows(operators.system_matrix, row_weighting)
        self._orders = row_orders(self._energies, row_order, weights.iterations, seed)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Sweeps, tolerance, and how the rows are visited and weighted."""
        return {
            "iterations": self.weights.iterations,
            "tolerance": self.tolerance,
            "row_order": self.row_order,
            "row_weighting": self.row_weighting,
            "seed": self.seed,
        }

    def solve(self, measurements: Sequence[NormalizedMeasurement], /) -> list[Solution]:
        """Sweep for one image per measurement.

        Raises
        ------
        ConfigError
            If the weight depends on the SNR, and that of a measurement is not known.
        NonFiniteError
            If an image leaves single precision.
        """
        weights = weights_per_frame(self.weights, measurements)
        damping = np.array([frame["lambda"] for frame in weights], np.float32)
        data = np.stack([measurement.y for measurement in measurements])
        images, histories = list[Float32Array](), list[list[float]]()
        for first in range(0, len(data), FRAMES_TOGETHER):
            together = slice(first, first + FRAMES_TOGETHER)
            some_images, some_histories = self._solve_together(data[together], damping[together])
            images += list(some_images)
            histories += some_histories
        # Without a tolerance the number of sweeps is what was asked for, not a limit that was hit.
        at_limit = Result.MAX_ITERATIONS if self.tolerance > 0 else Result.FIXED_ITERATIONS
        return solution_per_frame(images, histories, self.tolerance, self.weights, measurements, at_limit)

    def _solve_together(
        self, data: Float32Array, damping: Float32Array
    ) -> tuple[Float32Array, list[list[float]]]:
        """Return the images, float32 (F, N), of data (F, R), and the relative change by each sweep."""
        by_row = np.ascontiguousarray((data * self._scales).T)
        dual = np.zeros_like(by_row)
        orders = cycle(self._orders)

        def sweep(images: Float32Array, out: Float32Array) -> None:
            out[...] = images
            sweep_rows(self._rows, self._energies, next(orders), by_row, damping, out, dual)
            np.maximum(out, 0, out=out)

        start = np.zeros((len(data), self._rows.shape[1]), np.float32)
        images, histories, _ = iterate_plain(sweep, start, self.weights.iterations, self.tolerance)
        return images[:, : self.operators.n_voxels], histories


@kernel(
    "void(float32[:, ::1], float32[::1], int32[::1], float32[:, ::1], float32[::1], float32[:, ::1], "
    "float32[:, ::1])"
)
def sweep_rows(
    rows: Float32Array,
    energies: Float32Array,
    order: NDArray[np.int32],
    data: Float32Array,
    damping: Float32Array,
    images: Float32Array,
    dual: Float32Array,
) -> None:
    """Update images and duals with the rows in turn, in place.

    For row i and each frame: step = (y_i - sqrt(lambda) v_i - a_i . x) / (||a_i||^2 + lambda), then
    x += step a_i and v_i += step sqrt(lambda).

    Parameters
    ----------
    rows : ndarray of float32, shape (R, K)
        System matrix, one a_i per row.
    energies : ndarray of float32, shape (R,)
        Squared norms ||a_i||^2.
    order : ndarray of int32, shape (any,)
        Rows to visit, at least one; none of them zero.
    data : ndarray of float32, shape (R, F)
        Data y, frames side by side.
    damping : ndarray of float32, shape (F,)
        Weight lambda of each frame.
    images : ndarray of float32, shape (F, K)
        Images x.
    dual : ndarray of float32, shape (R, F)
        Duals v.
    """
    n_frames, n_columns = images.shape
    roots = np.sqrt(damping)
    products = np.empty(n_frames, np.float32)  # a_i . x for the row that comes next
    row = rows[order[0]]
    for frame in range(n_frames):
        image = images[frame]
        product = np.float32(0)
        for column in range(n_columns):
            product += row[column] * image[column]
        products[frame] = product
    for position in range(len(order)):
        index = order[position]
        row = rows[index]
        following = rows[order[min(position + 1, len(order) - 1)]]
        for frame in range(n_frames):
            image, root = images[frame], roots[frame]
            residual = data[index, frame] - root * dual[index, frame] - products[frame]
            step = residual / (energies[index] + damping[frame])
            dual[index, frame] += step * root
            # One pass adds this row and multiplies with the next: half the traffic of two.
            product = np.float32(0)
            for column in range(n_columns):
                value = image[column] + step * row[column]
                image[column] = value
                product += following[column] * value
            products[frame] = product


def _weighted_rows(
    matrix: Float32Array, weighting: RowWeighting
) -> tuple[Float32Array, Float32Array, Float32Array]:
    """Return the factor of each row (R,), the weighted rows filled up (R, K), their squared norms (R,)."""
    squared = np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64).astype(np.float32)
    scales = np.ones(len(matrix), np.float32)
    if weighting == "l2":
        scales[squared > 0] = 1 / np.sqrt(squared[squared > 0])
    rows = np.pad(matrix * scales[:, None], ((0, 0), (0, -matrix.shape[1] % LANES)))
    return scales, rows, squared * scales**2


def row_orders(energies: Float32Array, order: RowOrder, sweeps: int, seed: int) -> NDArray[np.int32]:
    """Return the rows that each sweep visits, int32 (sweeps, n); a single sweep stands for equal ones.

    Rows that are zero in single precision say nothing of the image and are left out.
    """
    used = np.flatnonzero(energies).astype(np.int32)
    random = np.random.default_rng(seed)
    if order == "shuffled":
        return random.permuted(np.tile(used, (sweeps, 1)), axis=1)
    if order == "random":
        share = energies[used].astype(np.float64)
        return random.choice(used, (sweeps, len(used)), p=share / share.sum())
    return used[None]


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}; expected one of {', '.join(choices)}")
