"""Psi_RDN in another precision: the same function, products exact in float64, close in bfloat16."""

import pytest
import torch

from trainer.networks.rdn import ResidualDenseNetwork
from trainer.networks.rdn_precision import RdnInPrecision

ROUNDING = 1e-12
"""Of sums of some hundred float64 products."""

BFLOAT16_OUTPUT = 2e-2
"""Eight bits of mantissa through ten layers, of an output of size 1: 3e-3 seen."""

BFLOAT16_COSINE = 0.999
"""Between products with J^T: rounding flips a rectifier here and there."""

NOISE = torch.tensor([0.3, 0.02]).reshape(2, 1, 1, 1)


def network(dtype: torch.dtype, *, takes_noise: bool = True, features: int = 6) -> ResidualDenseNetwork:
    torch.manual_seed(3)
    return ResidualDenseNetwork(features, 5, 3, 2, takes_noise=takes_noise).to(dtype)


def images(dtype: torch.dtype) -> torch.Tensor:
    return torch.rand(2, 1, 7, 9, generator=torch.Generator().manual_seed(4), dtype=dtype)


@pytest.mark.parametrize("takes_noise", [True, False])
def test_float64_equals_the_network_and_its_autograd(takes_noise: bool) -> None:
    rdn = network(torch.float64, takes_noise=takes_noise)
    twin, noise = RdnInPrecision(rdn, torch.float64), NOISE.double()
    v = images(torch.float64).requires_grad_()
    cotangent = torch.randn(v.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    expected, found = rdn(v, noise), twin(v, noise)
    torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING)
    (wanted,) = torch.autograd.grad(expected, v, cotangent)
    (product,) = torch.autograd.grad(found, v, cotangent)
    assert wanted.abs().max() > 0.1
    torch.testing.assert_close(product, wanted, rtol=0, atol=ROUNDING)
    with torch.no_grad():
        torch.testing.assert_close(twin(v, noise), expected, rtol=0, atol=ROUNDING)


def test_products_may_be_asked_for_again() -> None:
    v = images(torch.float64).requires_grad_()
    output = RdnInPrecision(network(torch.float64), torch.float64)(v, NOISE.double())
    first, second = (torch.autograd.grad(output.sum(), v, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_bfloat16_stays_close_and_returns_the_precision_of_the_image() -> None:
    rdn = network(torch.float32, features=16)
    v = images(torch.float32).requires_grad_()
    expected, found = rdn(v, NOISE), RdnInPrecision(rdn, torch.bfloat16)(v, NOISE)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < BFLOAT16_OUTPUT
    (wanted,) = torch.autograd.grad(expected.square().sum(), v)
    (product,) = torch.autograd.grad(found.square().sum(), v)
    cosine = torch.nn.functional.cosine_similarity(wanted.flatten(), product.flatten(), dim=0)
    assert cosine > BFLOAT16_COSINE


def test_later_changes_of_the_weights_do_not_reach_it() -> None:
    rdn = network(torch.float64)
    twin, v = RdnInPrecision(rdn, torch.float64), images(torch.float64)
    before = twin(v, NOISE.double())
    with torch.no_grad():
        rdn.exit.weight.add_(1.0)
    assert torch.equal(twin(v, NOISE.double()), before)
