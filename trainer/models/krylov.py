"""The dominant eigenpairs of many matrices at once, from products alone: the Arnoldi process.

Growth rates of a power iteration would be too low here: on ADMM steps many eigenvalues crowd just below the
largest.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""Vectors (B, n) to the products (B, n) of each sample's matrix with its vector."""

BREAKDOWN = 1e-6
"""What is left of a product, relative to it, when it lies in the space already; float32 leaves 1e-7."""

START_SEED = 0


@dataclass(frozen=True)
class RitzPair:
    """Each sample's eigenpair of largest modulus, as its Krylov space sees it.

    Attributes
    ----------
    value : ndarray of complex128, shape (B,)
    error : ndarray of float64, shape (B,)
        Estimate to first order of the distance from an eigenvalue: ||M q - theta q|| times the condition
        number of theta.
    coordinates : ndarray of complex128, shape (B, size)
        Of the eigenvector, of norm 1, in the basis of the space.
    """

    value: NDArray[np.complex128]
    error: NDArray[np.float64]
    coordinates: NDArray[np.complex128]


class KrylovSpace:
    """Orthonormal bases of span(q, M q, M^2 q, ...), one per sample, and the Hessenberg matrices of M.

    Parameters
    ----------
    product : callable
        See `Product`.
    like : Tensor, shape (B, n)
        Gives shape, precision and device; its values do not matter.
    limit : int
        Largest dimension, at most n; memory is B n (limit + 1) numbers.

    Attributes
    ----------
    size : int
        Dimension so far, which is the number of products spent.
    """

    def __init__(self, product: Product, like: Tensor, limit: int) -> None:
        count, length = like.shape
        generator = torch.Generator("cpu").manual_seed(START_SEED)
        start = torch.randn(length, generator=generator).to(like).expand(count, -1)
        self.size = 0
        self._product = product
        self._basis = like.new_zeros(count, limit + 1, length)
        self._basis[:, 0] = start / torch.linalg.vector_norm(start, dim=1, keepdim=True)
        self._hessenberg = np.zeros((count, limit + 1, limit))

    def grow(self, products: int) -> None:
        """Add dimensions; a sample whose space is invariant already gets zero vectors."""
        for column in range(self.size, self.size + products):
            vector = self._product(self._basis[:, column])
            whole = torch.linalg.vector_norm(vector, dim=1)
            known = self._basis[:, : column + 1]
            for _ in range(2):  # once leaves rounding errors that grow with the space
                share = torch.bmm(known, vector[:, :, None])
                vector = vector - torch.bmm(known.transpose(1, 2), share)[:, :, 0]
                self._hessenberg[:, : column + 1, column] += share[:, :, 0].double().cpu().numpy()
            rest = torch.linalg.vector_norm(vector, dim=1)
            rest = torch.where(rest <= BREAKDOWN * whole, torch.zeros_like(rest), rest)
            self._hessenberg[:, column + 1, column] = rest.double().cpu().numpy()
            unit = vector / torch.where(rest > 0.0, rest, torch.ones_like(rest))[:, None]
            self._basis[:, column + 1] = torch.where(rest[:, None] > 0.0, unit, torch.zeros_like(unit))
        self.size += products

    def dominant(self) -> RitzPair:
        """Return each sample's Ritz pair of largest modulus."""
        return self._pairs(*[_largest] * len(self._hessenberg))

    def nearest(self, targets: NDArray[np.complex128]) -> RitzPair:
        """Return the Ritz pair nearest to each sample's target (B,)."""
        return self._pairs(*(partial(_nearest, target) for target in targets))

    def _pairs(self, *choices: Callable[[NDArray[np.complex128]], int]) -> RitzPair:
        size = self.size
        pairs = [
            _ritz_pair(matrix[:size, :size], matrix[size, size - 1], choose)
            for matrix, choose in zip(self._hessenberg, choices, strict=True)
        ]
        values, errors, coordinates = zip(*pairs, strict=True)
        return RitzPair(np.array(values), np.array(errors), np.array(coordinates))

    def vectors(self, pair: RitzPair) -> tuple[Tensor, Tensor]:
        """Return real and imaginary part of the pair's eigenvectors, each (B, n)."""
        basis = self._basis[:, : self.size]
        parts = (torch.tensor(part).to(basis) for part in (pair.coordinates.real, pair.coordinates.imag))
        real, imaginary = (torch.bmm(part[:, None, :], basis)[:, 0] for part in parts)
        return real, imaginary


def _largest(values: NDArray[np.complex128]) -> int:
    return int(np.abs(values).argmax())


def _nearest(target: np.complex128, values: NDArray[np.complex128]) -> int:
    return int(np.abs(values - target).argmin())


def _ritz_pair(
    hessenberg: NDArray[np.float64], rest: float, choose: Callable[[NDArray[np.complex128]], int]
) -> tuple[complex, float, NDArray[np.complex128]]:
    """Return an eigenvalue of a Hessenberg matrix, its error and its eigenvector; `choose` gives its index.

    `rest` is the entry below the last row: ||M Q s - theta Q s|| = rest |s_k| for a unit vector s.
    """
    values, left, right = scipy.linalg.eig(hessenberg, left=True, right=True)
    index = choose(values)
    vector = right[:, index].astype(np.complex128)
    residual = rest * abs(vector[-1])
    overlap = abs(np.vdot(left[:, index], vector))  # 1 / condition number
    error = 0.0 if residual == 0.0 else residual / max(overlap, np.finfo(np.float64).tiny)
    return complex(values[index]), float(error), vector
