"""The check of operators and method: what works passes, what does not is refused."""

from dataclasses import replace

import numpy as np
import pytest

from engine.errors import LiveError
from engine.live.loop.self_check import LEAST_AGREEMENT, require_working
from engine.reconstruction.methods import METHODS, open_method
from engine.reconstruction.reconstructor import Reconstructor

SHIPPED = [name for name, method in METHODS.items() if method.works_as_installed]


@pytest.mark.parametrize("method", SHIPPED)
def test_methods_that_ship_pass_by_far(operators, method):
    assert require_working(Reconstructor(open_method(method, operators))) > LEAST_AGREEMENT + 0.2


def test_images_of_noise_do_not_pass(operators, make_solver):
    class Noise(make_solver):
        def solve(self, measurements, /):
            rng = np.random.default_rng(3)
            return [
                replace(found, value=np.maximum(rng.standard_normal(20), 0).astype(np.float32))
                for found in super().solve(measurements)
            ]

    with pytest.raises(LiveError, match=f"at least {LEAST_AGREEMENT}"):
        require_working(Reconstructor(Noise(operators)))


def test_operators_turned_against_their_grid_do_not_pass(operators, make_solver):
    # As if the voxels of a file were read in another order than those of the grid.
    turned = np.arange(20).reshape(4, 5)[::-1].ravel()[np.random.default_rng(5).permutation(20)]

    class Turned(make_solver):
        def solve(self, measurements, /):
            return [replace(found, value=found.value[turned]) for found in super().solve(measurements)]

    with pytest.raises(LiveError, match="made-up blob"):
        require_working(Reconstructor(Turned(operators)))
