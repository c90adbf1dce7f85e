"""The spectral radius of a map's Jacobian: below 1 at a fixed point, the plain iteration converges to it.

It comes from products with the transposed Jacobian, which has the same spectrum and is what reverse-mode
differentiation gives.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.errors import InputError
from trainer.models.anderson import BatchMap
from trainer.models.krylov import KrylovSpace, Product

MAX_PRODUCTS = 60
"""Dimension of the Krylov space; enough for most fixed points of trained networks."""

TOLERANCE = 1e-3
"""Error of the radius at which it counts as known, absolute."""

CHECK_EVERY = 10
"""Products between two looks at the Ritz values; a look costs little beside a product."""


@dataclass(frozen=True)
class SpectralRadius:
    """The largest modulus among each sample's eigenvalues, as far as it is known.

    Attributes
    ----------
    radius : Tensor of float64, shape (B,)
    error : Tensor of float64, shape (B,)
        Of the radius, to first order (`trainer.models.krylov.RitzPair`).
    settled : Tensor of bool, shape (B,)
        Whether the error is within the tolerance.
    products : int
        Products with J^T spent on every sample.
    """

    radius: Tensor
    error: Tensor
    settled: Tensor
    products: int


def transposed_jacobian(step: BatchMap, state: Tensor) -> Product:
    """Return v -> J^T v of a map that treats its samples independently, at states (B, n).

    The graph of one evaluation is kept as long as the function returned is.
    """
    point = state.detach().requires_grad_()
    with torch.enable_grad():
        output = step(point)

    def product(vector: Tensor) -> Tensor:
        (pulled_back,) = torch.autograd.grad(output, point, vector, retain_graph=True)
        return pulled_back

    return product


def spectral_radius(
    step: BatchMap, state: Tensor, max_products: int = MAX_PRODUCTS, tolerance: float = TOLERANCE
) -> SpectralRadius:
    """Find the spectral radius of each sample's Jacobian at a state.

    Parameters
    ----------
    step : BatchMap
        f.
    state : Tensor, shape (B, n)
        Where to linearise, usually a fixed point.
    max_products : int, optional
        Largest dimension of the Krylov space; memory is B n times as many numbers.
    tolerance : float, optional
        The process ends early once every sample's error is within it.

    Returns
    -------
    SpectralRadius

    Raises
    ------
    InputError
        If there is no product to make.

    Notes
    -----
    An estimate that has not settled is usually too small: the space has not met the eigenvector yet.
    """
    if max_products < 1:
        raise InputError(f"max_products is {max_products}; expected at least 1")
    limit = min(max_products, state.shape[1])
    krylov = KrylovSpace(transposed_jacobian(step, state), state, limit)
    while True:
        krylov.grow(min(CHECK_EVERY, limit - krylov.size))
        pair = krylov.dominant()
        if krylov.size == limit or bool((pair.error <= tolerance).all()):
            break
    error = torch.tensor(pair.error)
    return SpectralRadius(torch.tensor(np.abs(pair.value)), error, error <= tolerance, krylov.size)
