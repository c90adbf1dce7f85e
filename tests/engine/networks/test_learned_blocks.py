"""Blocks bound to arrays: the same numbers as a plain call, however many frames go in at a time."""

import numpy as np
import pytest

from engine.errors import PairingError
from engine.networks.learned_blocks import bind


def block(v, y, mask, epsilon):
    """Differs for every frame and place; the mask is one for all frames."""
    return (v + 2 * y) * mask + epsilon


@pytest.mark.parametrize("frames", [None, 1, 2, 3, 7, 8])
@pytest.mark.parametrize("n_frames", [1, 2, 7])
def test_parts_give_what_the_whole_gives(frames, n_frames) -> None:
    rng = np.random.default_rng(0)
    v, y = rng.standard_normal((2, n_frames, 2, 3, 4)).astype(np.float32)
    mask = rng.random((1, 1, 3, 4)).astype(np.float32)
    epsilon = rng.random((n_frames, 1, 1, 1)).astype(np.float32)
    sizes = []

    def counted(*arrays):
        sizes.append(len(arrays[0]))
        return block(*arrays)

    run = bind("block", counted, v, y, mask, epsilon, frames=frames)
    for _ in range(2):
        v[...] = rng.standard_normal(v.shape)  # the arrays are read anew
        np.testing.assert_array_equal(run(), block(v, y, mask, epsilon))
    assert sum(sizes) == 2 * n_frames
    assert max(sizes) <= (frames or n_frames)


def test_a_block_that_binds_itself_is_bound_once_per_part() -> None:
    class Binding:
        def __init__(self) -> None:
            self.bound = []

        def bind(self, v, y):
            self.bound.append(len(v))
            return lambda: v - y

    own = Binding()
    v, y = np.ones((5, 2), np.float32), np.zeros((5, 2), np.float32)
    run = bind("block", own, v, y, frames=2)
    assert own.bound == [2, 2, 1]
    y[4] = 3.0
    np.testing.assert_array_equal(run(), v - y)
    assert own.bound == [2, 2, 1]


@pytest.mark.parametrize("frames", [None, 2])
def test_another_shape_is_refused_with_the_name_of_the_block(frames) -> None:
    run = bind("image prior", lambda v: v[..., :1], np.ones((3, 4), np.float32), frames=frames)
    with pytest.raises(PairingError, match=r"image prior .*shape"):
        run()
