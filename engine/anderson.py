"""Type-II Anderson acceleration of z = f(z) for one vector.

D. G. Anderson, J. ACM 12 (1965) 547; H. F. Walker and P. Ni, SIAM J. Numer. Anal. 49 (2011) 1715.
"""

import numpy as np
from numpy.typing import NDArray


class AndersonHistory:
    """The last `memory` pairs (f(z_i), g_i = f(z_i) - z_i) and the next point they suggest.

    The weights minimise the mixed residual over affine combinations,

        min_a ||sum_i a_i g_i||^2 + lambda d ||a||^2   with   sum_i a_i = 1,

    and the next point is sum_i a_i (z_i + beta g_i). d is the mean squared norm of the residuals held, so
    scaling f and z by a constant changes nothing. With one pair the point is the plain z + beta g.

    The history is kept in float64 whatever the state's type: weights of opposite sign cancel. All buffers are
    allocated once; a solve touches no new memory beyond the `memory` x `memory` system.

    Parameters
    ----------
    size : int
        Length n of the state vector.
    memory : int
        Pairs kept, at least 1. The oldest is overwritten.
    beta : float
        Mixing weight; 1 is undamped.
    regularization : float
        lambda > 0.
    """

    def __init__(self, size: int, memory: int, beta: float, regularization: float) -> None:
        self._beta = beta
        self._regularization = regularization
        self._values = np.empty((memory, size))
        self._residuals = np.empty((memory, size))
        self._gram = np.empty((memory, memory))
        self._row = np.empty(memory)
        self._mixed = np.empty(size)
        self._damping = np.empty(size)
        self._count = 0
        self._next = 0

    def __len__(self) -> int:
        """Return the number of pairs held."""
        return self._count

    @property
    def newest(self) -> NDArray[np.float64]:
        """The f(z) stored last, shape (n,); a view that the next `push` after a `clear` may overwrite."""
        newest: NDArray[np.float64] = self._values[self._next - 1]
        return newest

    def clear(self) -> None:
        """Forget all pairs."""
        self._count = 0
        self._next = 0

    def push(self, value: NDArray[np.float64], residual: NDArray[np.float64]) -> None:
        """Store one pair, both of shape (n,): f(z) and f(z) - z."""
        memory = len(self._values)
        slot = self._next
        self._values[slot] = value
        self._residuals[slot] = residual
        self._next = (slot + 1) % memory
        self._count = min(self._count + 1, memory)
        row = self._row[: self._count]
        np.dot(self._residuals[: self._count], self._residuals[slot], out=row)
        self._gram[slot, : self._count] = row
        self._gram[: self._count, slot] = row

    def weights(self) -> NDArray[np.float64]:
        """Return the weights a of the pairs held, in storage order; they sum to 1."""
        gram = self._gram[: self._count, : self._count]
        shift = self._regularization * np.trace(gram) / self._count
        # Stationarity of the Lagrangian: (G G^T + shift I) a is a constant vector.
        weights: NDArray[np.float64] = np.linalg.solve(gram + shift * np.eye(len(gram)), np.ones(len(gram)))
        weights /= weights.sum()
        return weights

    def propose(self, out: NDArray[np.floating]) -> None:
        """Write the next point into `out`, shape (n,), any float type. Needs at least one pair."""
        weights = self.weights()
        np.dot(weights, self._values[: self._count], out=self._mixed)
        if self._beta != 1.0:
            # z + beta g = f - (1 - beta) g
            np.dot(weights, self._residuals[: self._count], out=self._damping)
            self._damping *= 1.0 - self._beta
            self._mixed -= self._damping
        out[...] = self._mixed
