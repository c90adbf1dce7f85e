from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.errors import SelectionError
from engine.mpi.preprocess import stack_real
from engine.mpi.row_layout import RowLayout

# Sums of a few dozen products of order 100 in double precision.
ROUNDING = 1e-11

finite = st.floats(-1e6, 1e6, width=32)
complex_rows = arrays(
    np.complex64, st.tuples(st.integers(1, 3), st.integers(1, 8)), elements=st.builds(complex, finite, finite)
)


@given(complex_rows)
def test_stacking_puts_real_parts_first(rows):
    stacked = stack_real(rows)
    assert stacked.dtype == np.float32
    np.testing.assert_array_equal(stacked[..., : rows.shape[-1]], rows.real)
    np.testing.assert_array_equal(stacked[..., rows.shape[-1] :], rows.imag)


@given(st.data())
def test_dense_layout_round_trip(data):
    lines, bins = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    chosen = data.draw(st.sets(st.integers(0, lines * bins - 1), min_size=1))
    layout = RowLayout((lines, bins), np.array(sorted(chosen), np.int64))
    rows = data.draw(arrays(np.float32, (2, 2 * layout.n_rows), elements=finite))
    dense = layout.scatter(rows)
    assert dense.shape == (2, 2, lines, bins)
    np.testing.assert_array_equal(layout.gather(dense), rows)
    np.testing.assert_array_equal(dense * (1 - layout.mask), 0)


def test_real_rows_act_like_the_complex_matrix(small_system_matrix):
    image = np.random.default_rng(0).random(35)
    product = small_system_matrix.rows @ image
    expected = np.concatenate([product.real, product.imag])
    np.testing.assert_allclose(small_system_matrix.real_rows() @ image, expected, atol=ROUNDING)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_a_constant_image_gives_the_same_data_on_the_refined_grid(small_system_matrix, factor):
    fine = small_system_matrix.upsampled(factor)
    assert fine.grid.size == (7 * factor, 5 * factor, 1)
    assert fine.grid.field_of_view == small_system_matrix.grid.field_of_view
    np.testing.assert_allclose(fine.rows.sum(axis=1), small_system_matrix.rows.sum(axis=1), atol=ROUNDING)


def test_refined_columns_interpolate_a_smooth_system_function(small_system_matrix):
    # Rows linear in x: cubic convolution is exact two voxels away from the edges.
    x = small_system_matrix.grid.positions()[:, 0]
    linear = replace(small_system_matrix, rows=np.tile(1 + 100 * x, (60, 1)).astype(np.complex128))
    fine = linear.upsampled(2)
    fine_x = fine.grid.positions()[:, 0]
    inside = np.abs(fine_x) < 0.003
    np.testing.assert_allclose(4 * fine.rows[0, inside], 1 + 100 * fine_x[inside], rtol=1e-12)


def test_smoothed_is_the_fine_matrix_averaged_over_coarse_voxels(small_system_matrix):
    fine = 4 * small_system_matrix.upsampled(2).rows
    expected = fine.reshape(60, 5, 2, 7, 2).mean(axis=(2, 4)).reshape(60, 35)
    np.testing.assert_allclose(small_system_matrix.smoothed().rows, expected, atol=ROUNDING)
    assert small_system_matrix.smoothed().grid == small_system_matrix.grid


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: {"rows": m.rows[:, 1:]}, "expected"),
        (lambda m: {"noise_std": m.noise_std[1:]}, "expected"),
        (lambda m: {"rows": m.rows * np.nan}, "NaN"),
        (lambda m: {"noise_std": m.noise_std * 0}, "positive noise"),
        (lambda _: {"layout": RowLayout((6, 12), np.array([], np.int64))}, "no rows"),
    ],
)
def test_impossible_matrices_are_refused(small_system_matrix, change, message):
    with pytest.raises(SelectionError, match=message):
        replace(small_system_matrix, **change(small_system_matrix))
