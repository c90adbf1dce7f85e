"""Type-II Anderson acceleration of z = f(z) for one vector.

`AndersonHistory` keeps the vectors; `AndersonSystem` is the small linear system alone, where they are kept
elsewhere.

D. G. Anderson, J. ACM 12 (1965) 547; H. F. Walker and P. Ni, SIAM J. Numer. Anal. 49 (2011) 1715.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.machine.compiled import kernel

SMALLEST_PIVOT = 1e-15
"""Least pivot, relative to the mean squared residual: keeps weights finite where only rounding is left."""

BLOCK = 512
"""Number of entries mixed at a time: their float64 sums stay in the first-level cache."""

SMALLEST_SQUARE = 1e-300
"""Least mean squared residual: keeps the weights finite where every residual is zero."""

Vector = NDArray[Any]
"""A contiguous vector of float32 or float64, shape (n,)."""


class AndersonHistory:
    """The last `memory` pairs (f(z_i), g_i = f(z_i) - z_i) and the next point they suggest.

    The weights minimise the mixed residual over affine combinations,

        min_a ||sum_i a_i g_i||^2 + lambda d ||a||^2   with   sum_i a_i = 1,

    and the next point is sum_i a_i (z_i + beta g_i). d is the mean squared norm of the residuals held, so
    scaling f and z by a constant changes nothing. With one pair the point is the plain z + beta g.

    Vectors are kept in the state's type; every sum over them is done in float64, because weights of opposite
    sign cancel. All buffers are allocated once; afterwards one block of `BLOCK` values at a time is.

    Parameters
    ----------
    size : int
        Length n of the state vector.
    memory : int
        Number of pairs kept, at least 1. The oldest is overwritten.
    beta : float
        Mixing weight; 1 is undamped.
    regularization : float
        Weight lambda > 0 of ||a||^2.
    dtype : dtype, optional
        Type of the state: float32 or float64.
    measured : int, optional
        Leading entries of the state that residuals and weights look at; by default all. The rest is mixed
        with the same weights: a linear function of the state, carried along instead of computed again.
    """

    def __init__(
        self,
        size: int,
        memory: int,
        beta: float,
        regularization: float,
        dtype: np.dtype[Any] | type[np.floating] = np.float64,
        measured: int | None = None,
    ) -> None:
        self._damping = 1.0 - beta
        self._regularization = regularization
        self._measured = size if measured is None else measured
        self._values: NDArray[Any] = np.empty((memory, size), dtype)
        # Undamped mixing looks at values only; of the residuals then just the measured part is needed.
        self._residuals: NDArray[Any] = np.empty((memory, size if self._damping else self._measured), dtype)
        self._gram = np.empty((memory, memory))
        self._factor = np.empty((memory, memory))
        self._weights = np.empty(memory)
        self._count = 0
        self._next = 0

    def __len__(self) -> int:
        """Return the number of pairs held."""
        return self._count

    @property
    def newest(self) -> Vector:
        """The f(z) stored last, shape (n,); a view that the next `push` after a `clear` may overwrite."""
        newest: Vector = self._values[self._next - 1]
        return newest

    def clear(self) -> None:
        """Forget all pairs."""
        self._count = 0
        self._next = 0

    def push(self, point: Vector, value: Vector) -> None:
        """Store one pair, both contiguous of shape (n,) and of the history's type: z and f(z)."""
        memory = len(self._values)
        slot = self._next
        self._next = (slot + 1) % memory
        self._count = min(self._count + 1, memory)
        gram = self._gram[: self._count]
        _store(point, value, self._measured, slot, self._values, self._residuals, gram)

    def weights(self) -> NDArray[np.float64]:
        """Return the weights a of the k pairs held, float64 (k,), in storage order; they sum to 1."""
        found = self._weights[: self._count]
        mixing_weights(self._gram, self._regularization, self._factor, found)
        return found

    def propose(self, out: Vector) -> None:
        """Write the next point into `out`, contiguous of shape (n,) and of the history's type.

        At least one pair must be held.
        """
        _mix(self.weights(), self._values, self._residuals, self._damping, out)


def residual_norms(point: Vector, value: Vector, measured: int) -> tuple[float, float]:
    """Return ||f(z) - z|| and ||f(z)|| over the first `measured` entries, summed in float64.

    Parameters
    ----------
    point, value : ndarray of float32 or float64, shape (n,)
        Vectors z and f(z), contiguous and of one type.
    measured : int
        Number of entries that count.
    """
    residual, size = _squared_norms(point, value, measured)
    return math.sqrt(residual), math.sqrt(size)


@kernel(
    "UniTuple(float64, 2)(float32[::1], float32[::1], int64)",
    "UniTuple(float64, 2)(float64[::1], float64[::1], int64)",
)
def _squared_norms(point: Vector, value: Vector, measured: int) -> tuple[float, float]:
    residual, size = 0.0, 0.0
    for i in range(measured):
        exact = np.float64(value[i])
        difference = exact - np.float64(point[i])
        residual += difference * difference
        size += exact * exact
    return residual, size


@kernel(
    "void(float32[::1], float32[::1], int64, int64, float32[:, ::1], float32[:, ::1], float64[:, ::1])",
    "void(float64[::1], float64[::1], int64, int64, float64[:, ::1], float64[:, ::1], float64[:, ::1])",
)
def _store(
    point: Vector,
    value: Vector,
    measured: int,
    slot: int,
    values: NDArray[Any],
    residuals: NDArray[Any],
    gram: NDArray[np.float64],
) -> None:
    residual, kept = residuals[slot], values[slot]
    for i in range(len(value)):
        kept[i] = value[i]
    for i in range(len(residual)):
        residual[i] = value[i] - point[i]
    for k in range(len(gram)):  # one row per pair held
        other, overlap = residuals[k], 0.0
        for i in range(measured):
            overlap += np.float64(other[i]) * np.float64(residual[i])
        gram[slot, k] = overlap
        gram[k, slot] = overlap


@kernel("void(float64[:, ::1], float64, float64[:, ::1], float64[::1])")
def mixing_weights(
    gram: NDArray[np.float64],
    regularization: float,
    factor: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> None:
    """Write the weights of `AndersonHistory` for inner products of residuals; they sum to 1.

    Parameters
    ----------
    gram : ndarray of float64, shape (m, m)
        Matrix G G^T; the leading part as long as `weights` counts.
    regularization : float
        Weight lambda of ||a||^2.
    factor : ndarray of float64, shape (m, m)
        Scratch space.
    weights : ndarray of float64, shape (k,)
        Output a, k <= m.
    """
    # Stationarity of the Lagrangian: (G G^T + shift I) a is a constant vector. Cholesky, as G G^T + shift I
    # is positive definite; at most a handful of rows.
    count = len(weights)
    mean = 0.0
    for i in range(count):
        mean += gram[i, i] / count
    for i in range(count):
        for j in range(i + 1):
            entry = gram[i, j]
            for k in range(j):
                entry -= factor[i, k] * factor[j, k]
            if i == j:
                entry += regularization * mean
                factor[i, i] = math.sqrt(max(entry, SMALLEST_PIVOT * mean, SMALLEST_SQUARE))
            else:
                factor[i, j] = entry / factor[j, j]
    for i in range(count):
        entry = 1.0
        for k in range(i):
            entry -= factor[i, k] * weights[k]
        weights[i] = entry / factor[i, i]
    total = 0.0
    for i in range(count - 1, -1, -1):
        entry = weights[i]
        for k in range(i + 1, count):
            entry -= factor[k, i] * weights[k]
        weights[i] = entry / factor[i, i]
        total += weights[i]
    for i in range(count):
        weights[i] /= total


@kernel(
    "void(float64[::1], float32[:, ::1], float32[:, ::1], float64, float32[::1])",
    "void(float64[::1], float64[:, ::1], float64[:, ::1], float64, float64[::1])",
)
def _mix(
    weights: NDArray[np.float64],
    values: NDArray[Any],
    residuals: NDArray[Any],
    damping: float,
    out: Vector,
) -> None:
    block = np.empty(BLOCK)
    for first in range(0, len(out), BLOCK):
        length = min(BLOCK, len(out) - first)
        for i in range(length):
            block[i] = 0.0
        for k in range(len(weights)):
            weight, row = weights[k], values[k, first : first + length]
            for i in range(length):
                block[i] += weight * np.float64(row[i])
            if damping != 0.0:  # z + beta g = f - (1 - beta) g
                row = residuals[k, first : first + length]
                for i in range(length):
                    block[i] -= weight * damping * np.float64(row[i])
        mixed = out[first : first + length]
        for i in range(length):
            mixed[i] = block[i]


class AndersonSystem:
    """Inner products of the residuals held in numbered slots, and the weights that follow from them.

    The weights are those of `AndersonHistory`:

        min_a ||sum_i a_i g_i||^2 + lambda d ||a||^2   with   sum_i a_i = 1,

    d the mean squared norm of the residuals held. What is a row of memory there is any slot here, so that
    vectors can stay where they were written.

    Parameters
    ----------
    n_slots : int
        Number of slots.
    memory : int
        Residuals held at most, at least 1; the oldest is dropped.
    regularization : float
        Weight lambda > 0 of ||a||^2.
    """

    def __init__(self, n_slots: int, memory: int, regularization: float) -> None:
        self._memory = memory
        self._regularization = regularization
        self._gram = np.zeros((n_slots, n_slots))
        self._held: list[int] = []

    def __len__(self) -> int:
        """Return the number of residuals held."""
        return len(self._held)

    @property
    def held(self) -> tuple[int, ...]:
        """Slots of the residuals held, the oldest first."""
        return tuple(self._held)

    def clear(self) -> None:
        """Drop all residuals."""
        self._held.clear()

    def push(self, slot: int, products: NDArray[np.floating], squared_norm: float) -> None:
        """Hold the residual in a slot that holds none yet.

        Parameters
        ----------
        slot : int
            Number of the slot.
        products : ndarray of float, shape (n_slots,)
            Inner products with the residuals of all slots; those of slots that are not held are ignored.
        squared_norm : float
            Inner product of the residual with itself.
        """
        self._held = [*self._held, slot][-self._memory :]
        self._gram[slot, :] = products
        self._gram[:, slot] = products
        self._gram[slot, slot] = squared_norm

    def weights(self) -> NDArray[np.float64]:
        """Return one weight per slot, float64 (n_slots,): zero where none is held; their sum is 1."""
        gram = self._gram[np.ix_(self._held, self._held)]
        found = np.empty(len(gram))
        mixing_weights(gram, self._regularization, np.empty_like(gram), found)
        weights = np.zeros(len(self._gram))
        weights[self._held] = found
        return weights
