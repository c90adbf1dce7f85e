"""The two networks: shapes, constraints and parameter names."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trainer.networks.consistency import LearnedConsistency, ball_factor, project_ball
from trainer.networks.rdn import ResidualDenseNetwork

SINGLE_ROUNDING = 1e-5  # relative; norms of hundreds of float32 values

values = st.floats(-1e3, 1e3, width=32)
dense = arrays(np.float32, (2, 2, 3, 5), elements=values)


@pytest.mark.parametrize("shape", [(13, 26), (5, 7), (1, 3)])
def test_rdn_keeps_the_shape_and_gives_no_negative_value(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    z = ResidualDenseNetwork(features=8, growth=4, blocks=2, layers=3)(torch.randn(3, 1, *shape))
    assert z.shape == (3, 1, *shape)
    assert z.min() == 0.0  # some of the random input is negative and must be cut
    assert z.max() > 0.0


def test_rdn_has_the_size_of_its_arguments() -> None:
    network = ResidualDenseNetwork(features=6, growth=4, blocks=3, layers=2)
    block = (9 * 6 * 4 + 4) + (9 * 10 * 4 + 4) + (14 * 6 + 6)
    around = (9 * 6 + 6) + (9 * 36 + 6) + (18 * 6 + 6) + (9 * 36 + 6) + (9 * 6 + 1)
    assert sum(p.numel() for p in network.parameters()) == 3 * block + around


def test_rdn_is_translation_equivariant_away_from_the_border() -> None:
    torch.manual_seed(0)
    network = ResidualDenseNetwork(features=4, growth=4, blocks=1, layers=1).double()
    image = torch.zeros(1, 1, 24, 24, dtype=torch.float64)
    image[..., 10:13, 9:12] = torch.rand(3, 3, dtype=torch.float64)
    moved = network(image.roll((2, 1), (2, 3)))
    torch.testing.assert_close(moved[..., 8:17, 8:17], network(image).roll((2, 1), (2, 3))[..., 8:17, 8:17])


@given(dense, dense, st.floats(1e-3, 1e4))
@settings(max_examples=60, deadline=None)
def test_projection_is_that_of_the_closed_form(v: np.ndarray, y: np.ndarray, radius: float) -> None:
    epsilon = torch.tensor([radius, 2 * radius], dtype=torch.float64).reshape(2, 1, 1, 1)
    found = project_ball(torch.tensor(v).double(), torch.tensor(y).double(), epsilon).numpy()
    for k in range(2):
        difference, bound = v[k].astype(float) - y[k], (k + 1) * radius
        norm = np.linalg.norm(difference)
        expected = v[k] if norm <= bound else y[k] + difference * bound / norm
        np.testing.assert_allclose(found[k], expected, rtol=1e-12, atol=1e-9)


def test_projection_at_the_centre_is_defined_and_differentiable() -> None:
    y = torch.ones(1, 2, 3, 4)
    v = y.clone().requires_grad_()
    projected = project_ball(v, y, torch.full((1, 1, 1, 1), 0.5))
    projected.sum().backward()
    assert torch.equal(projected, y)
    assert torch.equal(v.grad, torch.ones_like(v))  # inside the ball the projection is the identity


@given(dense, dense, st.floats(1e-3, 1e3))
@settings(max_examples=40, deadline=None)
def test_lc_stays_in_the_ball_and_off_the_unselected_places(
    v: np.ndarray, y: np.ndarray, radius: float
) -> None:
    torch.manual_seed(0)
    mask = (torch.arange(15).reshape(1, 1, 3, 5) % 3 > 0).float()
    v_dense, y_dense = torch.tensor(v) * mask, torch.tensor(y) * mask
    epsilon = torch.full((2, 1, 1, 1), radius)
    with torch.no_grad():
        z = LearnedConsistency(features=4)(v_dense, y_dense, mask, epsilon)
    distance = (z.double() - y_dense.double()).flatten(1).norm(dim=1)
    # The sum y + difference is rounded at the size of y.
    slack = SINGLE_ROUNDING * (radius + y_dense.flatten(1).norm(dim=1))
    assert torch.all(distance <= radius + slack)
    assert torch.all(z[(mask == 0).expand_as(z)] == 0.0)


def test_lc_does_not_mix_lines() -> None:
    torch.manual_seed(0)
    network = LearnedConsistency(features=4, hidden_layers=2)
    mask, epsilon = torch.ones(1, 1, 3, 9), torch.full((1, 1, 1, 1), 1e6)  # the ball never acts
    v, y = torch.randn(1, 2, 3, 9), torch.randn(1, 2, 3, 9)
    changed = v.clone()
    changed[:, :, 1] += 1.0
    difference = (network(changed, y, mask, epsilon) - network(v, y, mask, epsilon)).abs().amax(dim=(0, 1, 3))
    assert difference[1] > 0.0
    assert torch.equal(difference[[0, 2]], torch.zeros(2))


def test_ball_factor_counts_each_sample_alone() -> None:
    difference = torch.stack([torch.full((2, 2, 2), 1.0), torch.full((2, 2, 2), 0.1)])
    factor = ball_factor(difference, torch.ones(2, 1, 1, 1)).flatten()
    torch.testing.assert_close(factor, torch.tensor([8.0**-0.5, 1.0]))


def test_state_dict_names_are_those_the_export_relies_on() -> None:
    rdn = ResidualDenseNetwork(blocks=1, layers=1).state_dict()
    lc = LearnedConsistency().state_dict()
    assert {key.removesuffix(".weight") for key in rdn if key.endswith(".weight")} == {
        "entry", "shallow", "blocks.0.layers.0", "blocks.0.fuse", "fuse", "merge", "exit"
    }  # fmt: skip
    assert {key.removesuffix(".weight") for key in lc if key.endswith(".weight")} == {
        "hidden.0", "hidden.1", "exit"
    }  # fmt: skip
