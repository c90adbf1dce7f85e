"""The small linear system of Anderson acceleration, where the vectors themselves are kept elsewhere."""

import numpy as np
from numpy.typing import NDArray

from engine.anderson import mixing_weights


class AndersonSystem:
    """Inner products of the residuals held in numbered slots, and the weights that follow from them.

    The weights are those of `engine.anderson.AndersonHistory`:

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
        lambda > 0.
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
            Where it is.
        products : ndarray of float, shape (n_slots,)
            Its inner products with the residuals of all slots; those of slots that are not held are ignored.
        squared_norm : float
            Its inner product with itself.
        """
        self._held = [*self._held, slot][-self._memory :]
        self._gram[slot, :] = products
        self._gram[:, slot] = products
        self._gram[slot, slot] = squared_norm

    def weights(self) -> NDArray[np.float64]:
        """Return one weight per slot, shape (n_slots,): zero where none is held; their sum is 1."""
        gram = self._gram[np.ix_(self._held, self._held)]
        found = np.empty(len(gram))
        mixing_weights(gram, self._regularization, np.empty_like(gram), found)
        weights = np.zeros(len(self._gram))
        weights[self._held] = found
        return weights
