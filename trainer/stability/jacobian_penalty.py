"""A penalty on the spectral radius of a map's Jacobian, differentiable for the map's weights.

With the left and right eigenvectors q, p of the dominant eigenvalue held fixed, q^T J p / q^T p has the
eigenvalue's own derivative, however far J is from normal. A penalty on ||J||_F (Bai et al., 2021) would ask
for something else: a step of ADMM has norm 1 or more at any radius, and its left and right eigenvectors are
nearly orthogonal.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.models.anderson import BatchMap
from trainer.models.krylov import KrylovSpace, Product, RitzPair

PRODUCTS = 30
"""Dimension of the Krylov spaces of J and J^T."""

SAME = 1e-2
"""Largest distance of the eigenvalues found with J and with J^T that can be one and the same."""

MIN_OVERLAP = 1e-3
"""Least |q^T p|; below it the eigenvalue is nearly double and its derivative means nothing."""


@dataclass(frozen=True)
class RadiusPenalty:
    """The penalty on a batch and what it saw.

    Attributes
    ----------
    loss : Tensor, scalar
        Mean over the samples of max(0, radius - target)^2, differentiable for the weights; samples whose
        eigenvectors were not found count as zero.
    radius : Tensor, shape (B,)
        Spectral radius, detached; NaN where the eigenvectors were not found.
    """

    loss: Tensor
    radius: Tensor


def radius_penalty(step: BatchMap, state: Tensor, target: float, products: int = PRODUCTS) -> RadiusPenalty:
    """Penalise spectral radii above a target.

    Parameters
    ----------
    step : BatchMap
        The map, with a gradient for its weights.
    state : Tensor, shape (B, n)
        Its fixed points; how they move with the weights is left out of the derivative.
    target : float
        Radii up to it cost nothing.
    products : int, optional
        Products with J and with J^T for the eigenvectors.

    Returns
    -------
    RadiusPenalty
    """
    pull_back, push_forward = _linearise(step, state)
    size = min(products, state.shape[1])
    # One space of the pair that is asked for, and the other one for its counterpart.
    left = KrylovSpace(pull_back, state, size)
    left.grow(size)
    pair = left.dominant()
    right = KrylovSpace(push_forward, state, size)
    right.grow(size)
    counterpart = right.nearest(pair.value)
    found = torch.tensor(abs(pair.value - counterpart.value) <= SAME, device=state.device)
    moduli, overlap = _moduli(step, state, _Eigenvectors.of(left, pair), _Eigenvectors.of(right, counterpart))
    found = found & (overlap >= MIN_OVERLAP)
    excess = torch.where(found, torch.relu(moduli - target), torch.zeros_like(moduli))
    radius = torch.where(found, moduli.detach(), torch.full_like(moduli, torch.nan))
    return RadiusPenalty(excess.square().mean(), radius)


@dataclass(frozen=True)
class _Eigenvectors:
    """Real and imaginary parts, each (B, n)."""

    real: Tensor
    imaginary: Tensor

    @classmethod
    def of(cls, space: KrylovSpace, pair: RitzPair) -> "_Eigenvectors":
        return cls(*space.vectors(pair))


def _moduli(
    step: BatchMap, state: Tensor, left: _Eigenvectors, right: _Eigenvectors
) -> tuple[Tensor, Tensor]:
    """Return |q^T J p| / |q^T p| (B,) with its gradient for the weights, and |q^T p| (B,).

    J^T q = theta q and J p = theta p: it is the plain transpose of q that is a left eigenvector of J.
    """
    point = state.detach().requires_grad_()
    with torch.enable_grad():
        output = step(point)
        # J is real: its products with the two parts of p are those of one backward pass each.
        pulled_real = torch.autograd.grad(output, point, left.real, create_graph=True)[0]
        pulled_imaginary = torch.autograd.grad(output, point, left.imaginary, create_graph=True)[0]
        real, imaginary = _bilinear(_Eigenvectors(pulled_real, pulled_imaginary), right)
        size = torch.linalg.vector_norm(torch.stack([real, imaginary]), dim=0)
        overlap = torch.linalg.vector_norm(torch.stack(_bilinear(left, right)), dim=0)
        return size / overlap.clamp(min=MIN_OVERLAP), overlap


def _bilinear(a: _Eigenvectors, b: _Eigenvectors) -> tuple[Tensor, Tensor]:
    """Return real and imaginary part of a^T b, each (B,)."""
    real = (a.real * b.real - a.imaginary * b.imaginary).sum(dim=1)
    imaginary = (a.real * b.imaginary + a.imaginary * b.real).sum(dim=1)
    return real, imaginary


def _linearise(step: BatchMap, state: Tensor) -> tuple[Product, Product]:
    """Return v -> J^T v and v -> J v at states (B, n)."""
    point = state.detach().requires_grad_()
    with torch.enable_grad():
        output = step(point)
        # J^T u is linear in u, and its own transposed derivative is J.
        cotangent = torch.zeros_like(output, requires_grad=True)
        (pulled_back,) = torch.autograd.grad(output, point, cotangent, create_graph=True)

    def pull_back(vector: Tensor) -> Tensor:
        (product,) = torch.autograd.grad(output, point, vector, retain_graph=True)
        return product

    def push_forward(vector: Tensor) -> Tensor:
        (product,) = torch.autograd.grad(pulled_back, cotangent, vector, retain_graph=True)
        return product

    return pull_back, push_forward
