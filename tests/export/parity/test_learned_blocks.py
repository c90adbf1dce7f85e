"""Learned blocks: torch networks as functions of arrays, and the solver that each method runs them in."""

import numpy as np
import pytest
from torch import nn

from engine.fixed_point.solve import FixedPointConfig
from engine.networks.bundle import load_bundle
from engine.reconstruction.methods import METHODS
from export.errors import ExportError
from export.parity.learned_blocks import LearnedBlocks, as_callable, open_solver
from export.parity.parity_problem import synthetic_operators

NOISE = np.full((2, 1, 1, 1), 0.1, np.float32)


def test_wrapping_leaves_the_module_as_it_is():
    module = nn.Dropout(0.5).train()
    v = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(as_callable(module)(v), v)  # evaluation mode
    assert module.training


def test_blocks_of_a_bundle_are_its_networks(bundle_dir, rdn, lc):
    torch_blocks = LearnedBlocks.of_networks(rdn, lc)
    graphs = LearnedBlocks.of_bundle(load_bundle(bundle_dir))
    v = np.random.default_rng(0).random((2, 1, 6, 5), np.float32)
    np.testing.assert_allclose(graphs.prior(v, NOISE), torch_blocks.prior(v, NOISE), atol=1e-5)
    assert graphs.consistency is not None
    assert LearnedBlocks.of_networks(rdn, None).consistency is None


@pytest.fixture(scope="module")
def operators():
    return synthetic_operators()


def centre_of_the_ball(_v, y, _mask, _epsilon):
    return y


BLOCKS = LearnedBlocks(lambda v, _noise: v, centre_of_the_ball)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.networks])
def test_a_method_is_solved_by_its_own_solver(operators, method):
    assert open_solver(method, operators, BLOCKS, FixedPointConfig()).method == method


def test_missing_parts_are_refused(operators):
    for method, blocks, config in [
        ("deq", LearnedBlocks(BLOCKS.prior, None), FixedPointConfig()),
        ("deq-ball", BLOCKS, None),
        ("art", BLOCKS, FixedPointConfig()),
    ]:
        with pytest.raises(ExportError, match=f"method '{method}'"):
            open_solver(method, operators, blocks, config)
