"""Networks that see the noise level: what they see, and how they start from weights that did not."""

import pytest
import torch

from trainer.networks.consistency import LearnedConsistency
from trainer.networks.noise_level import LEVEL_RANGE, REFERENCE_NOISE, noise_level, with_noise_channel
from trainer.networks.rdn import ResidualDenseNetwork

SINGLE = 1e-6
"""A few roundings of float32 values of order one."""


@pytest.mark.parametrize(
    ("factor", "level"), [(1.0, 0.0), (10.0, 1.0), (0.1, -1.0), (1e6, 2.0), (1e-6, -2.0)]
)
def test_the_level_counts_decades_and_ends_at_its_range(factor: float, level: float) -> None:
    found = noise_level(torch.tensor([[[[REFERENCE_NOISE * factor]]]]))
    assert found.item() == pytest.approx(level, abs=SINGLE)
    assert LEVEL_RANGE == (-2.0, 2.0)


def test_an_image_network_that_takes_the_noise_depends_on_it_sample_by_sample() -> None:
    torch.manual_seed(0)
    rdn = ResidualDenseNetwork(4, 4, 2, 2, takes_noise=True)
    v = torch.rand(2, 1, 5, 6)
    low, high = torch.full((2, 1, 1, 1), 0.01), torch.full((2, 1, 1, 1), 0.5)
    mixed = torch.cat([low[:1], high[1:]])
    assert not torch.allclose(rdn(v, low), rdn(v, high), atol=1e-3)
    torch.testing.assert_close(rdn(v, mixed)[0], rdn(v, low)[0], rtol=0, atol=SINGLE)
    torch.testing.assert_close(rdn(v, mixed)[1], rdn(v, high)[1], rtol=0, atol=SINGLE)
    with pytest.raises(TypeError, match="noise level"):
        rdn(v)


def test_the_consistency_block_sees_the_noise_of_a_row_whatever_their_number() -> None:
    """Places where nothing is selected change neither the level nor, far from them, the result."""
    torch.manual_seed(1)
    lc = LearnedConsistency(4, 1, 3, takes_noise=True)
    v, y = torch.rand(1, 2, 3, 8), torch.rand(1, 2, 3, 8)
    sigma, big = 0.1, 1e3
    all_rows, two_lines = torch.ones(1, 1, 3, 8), torch.ones(1, 1, 3, 8)
    two_lines[:, :, 2] = 0.0
    found = [
        lc(v * mask, y * mask, mask, torch.full((1, 1, 1, 1), big * sigma * float(2 * mask.sum()) ** 0.5))
        for mask in (all_rows, two_lines)
    ]
    torch.testing.assert_close(found[0][:, :, :2], found[1][:, :, :2], rtol=0, atol=10 * SINGLE)


@pytest.mark.parametrize("kind", ["rdn", "lc"])
def test_weights_without_noise_level_start_a_network_that_does_not_use_it_yet(kind: str) -> None:
    torch.manual_seed(2)
    if kind == "rdn":
        old, new = (ResidualDenseNetwork(4, 4, 2, 2, takes_noise=takes) for takes in (False, True))
        inputs = (torch.rand(2, 1, 5, 6), torch.tensor([0.01, 0.4]).reshape(2, 1, 1, 1))
    else:
        old, new = (LearnedConsistency(4, 1, 3, takes_noise=takes) for takes in (False, True))
        mask = torch.ones(1, 1, 3, 8)
        inputs = (torch.rand(2, 2, 3, 8), torch.rand(2, 2, 3, 8), mask, torch.full((2, 1, 1, 1), 0.7))
    new.load_state_dict(with_noise_channel(old.state_dict(), new.state_dict()))
    torch.testing.assert_close(new(*inputs), old(*inputs), rtol=0, atol=SINGLE)


def test_other_differences_of_shape_are_left_alone() -> None:
    old = ResidualDenseNetwork(4, 4, 2, 2).state_dict()
    wider = ResidualDenseNetwork(6, 4, 2, 2, takes_noise=True).state_dict()
    same = with_noise_channel(old, wider)
    assert {name: value.shape for name, value in same.items()} == {n: v.shape for n, v in old.items()}
