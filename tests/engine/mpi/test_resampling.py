import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import loadmat

from engine.errors import ConfigError
from engine.mpi.resampling import bicubic_upsampling, box_downsampling

# Sums of at most 16 weights of order one.
ROUNDING = 1e-13

shapes = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 7))
factors = st.integers(1, 4)


def refined(shape, factor):
    return tuple(n * factor if n > 1 else 1 for n in shape)


def test_upsampling_is_the_authors_interpolation(iconlab):
    # Theirs: images of 26 x 13 (x, y) flattened in C order, so y runs fastest; ours: x fastest.
    theirs = loadmat(iconlab / "interpExp2.mat")["interpolater"].reshape(26, 13, 52, 26)
    expected = theirs.transpose(1, 0, 3, 2).reshape(338, 1352)
    np.testing.assert_allclose(bicubic_upsampling((1, 13, 26)).toarray(), expected, rtol=0, atol=ROUNDING)


@given(shapes, factors)
def test_a_constant_is_kept_in_both_directions(shape, factor):
    ratio = np.prod(refined(shape, factor)) / np.prod(shape)
    up, down = bicubic_upsampling(shape, factor), box_downsampling(shape, factor)
    np.testing.assert_allclose(up.sum(axis=0), 1.0, rtol=ROUNDING)
    np.testing.assert_allclose(up.sum(axis=1), ratio, rtol=ROUNDING)
    np.testing.assert_allclose(down.sum(axis=0), 1.0, rtol=ROUNDING)
    np.testing.assert_allclose((up @ down).sum(axis=0), 1.0, rtol=ROUNDING)


def test_cubic_convolution_reproduces_a_parabola_away_from_the_edges():
    ny, nx, factor = 9, 12, 3
    y, x = np.meshgrid(np.arange(ny) + 0.5, np.arange(nx) + 0.5, indexing="ij")
    fy, fx = np.meshgrid(
        (np.arange(ny * factor) + 0.5) / factor, (np.arange(nx * factor) + 0.5) / factor, indexing="ij"
    )

    def surface(a, b):
        return 2 + 3 * a - b + 0.5 * a * b + a**2 - 0.25 * b**2

    fine = surface(y, x).ravel() @ bicubic_upsampling((1, ny, nx), factor)
    # Four taps reach two voxels to each side; values grow to about 100.
    inside = np.s_[2 * factor : -2 * factor, 2 * factor : -2 * factor]
    np.testing.assert_allclose(
        fine.reshape(ny * factor, nx * factor)[inside], surface(fy, fx)[inside], rtol=0, atol=1e-11
    )


@given(shapes, factors, st.integers(0, 2**32 - 1))
def test_box_averages_the_fine_voxels_of_each_coarse_one(shape, factor, seed):
    fine = np.random.default_rng(seed).standard_normal(refined(shape, factor))
    steps = [f // n for f, n in zip(fine.shape, shape, strict=True)]
    blocks = fine.reshape(shape[0], steps[0], shape[1], steps[1], shape[2], steps[2])
    averaged = box_downsampling(shape, factor).T @ fine.ravel()
    np.testing.assert_allclose(averaged.reshape(shape), blocks.mean(axis=(1, 3, 5)), rtol=0, atol=ROUNDING)


def test_x_is_the_fastest_axis():
    impulse = np.zeros((1, 5, 6))
    impulse[0, 2, 4] = 1.0
    fine = (impulse.ravel() @ bicubic_upsampling((1, 5, 6))).reshape(1, 10, 12)
    # The largest weights of a fine voxel belong to the coarse voxel that contains it.
    assert set(zip(*np.nonzero(fine[0] == fine.max()), strict=True)) == {(4, 8), (4, 9), (5, 8), (5, 9)}


@pytest.mark.parametrize("function", [bicubic_upsampling, box_downsampling])
def test_impossible_sizes_are_refused(function):
    with pytest.raises(ConfigError, match="factor"):
        function((1, 13, 26), 0)
    with pytest.raises(ConfigError, match="positive"):
        function((0, 13, 26))
