from dataclasses import replace

import numpy as np
import pytest

from engine.errors import SelectionError
from engine.mpi.grid import Grid
from engine.operators.factorisation import make_operators
from engine.operators.operators import SPECTRAL_NORM, START_DAMPING

# Rounding of values of at most 25 to single precision: 25 * 2^-24 = 1.5e-6.
SINGLE = 2e-6

# Sums over 120 products of such values, in single precision.
SINGLE_PRODUCT = 1e-4


@pytest.fixture(scope="module")
def operators(small_system_matrix):
    return make_operators(small_system_matrix, source_sha256="ab" * 32)


def test_operators_carry_the_system_matrix_at_the_norm_of_the_method(small_system_matrix, operators):
    white = np.concatenate([small_system_matrix.rows.real, small_system_matrix.rows.imag])
    np.testing.assert_allclose(operators.scale * operators.system_matrix, white, rtol=0, atol=SINGLE * 40)
    assert np.linalg.norm(operators.system_matrix.astype(np.float64), 2) == pytest.approx(
        SPECTRAL_NORM, rel=1e-6
    )
    assert operators.source_sha256 == "ab" * 32


def test_factors_are_the_singular_value_decomposition(operators):
    a = operators.system_matrix.astype(np.float64)
    s = operators.singular_values
    np.testing.assert_allclose(s, np.linalg.svd(a, compute_uv=False), rtol=0, atol=SINGLE * np.sqrt(a.size))
    assert np.all(np.diff(s) <= 0)
    u, v = operators.left_singular.T.astype(np.float64), operators.right_singular.astype(np.float64)
    np.testing.assert_allclose(u * s @ v.T, a, rtol=0, atol=10 * SINGLE)
    np.testing.assert_allclose(u.T @ u, np.eye(35), rtol=0, atol=SINGLE)
    np.testing.assert_allclose(v.T @ v, np.eye(35), rtol=0, atol=SINGLE)


def test_inverse_is_the_dense_inverse_of_eq_7(operators):
    a = operators.system_matrix.astype(np.float64)
    expected = np.linalg.inv(np.eye(35) + a.T @ a)
    np.testing.assert_allclose(operators.inverse, expected, rtol=0, atol=SINGLE)
    np.testing.assert_array_equal(operators.inverse, operators.inverse.T)


def test_weighted_adjoint_is_the_dense_product(operators):
    a = operators.system_matrix.astype(np.float64)
    expected = np.linalg.inv(np.eye(35) + a.T @ a) @ a.T
    assert operators.weighted_adjoint.dtype == np.float32
    assert operators.weighted_adjoint.flags.c_contiguous
    np.testing.assert_allclose(operators.weighted_adjoint, expected, rtol=0, atol=SINGLE)
    assert np.linalg.norm(operators.weighted_adjoint, 2) <= 0.5 + SINGLE


def test_adjoint_passes_the_dot_product_test(operators):
    rng = np.random.default_rng(4)
    x = rng.standard_normal(operators.n_voxels).astype(np.float32)
    y = rng.standard_normal(operators.n_rows).astype(np.float32)
    forward = np.dot(operators.system_matrix @ x, y)
    backward = np.dot(x, operators.system_matrix.T @ y)
    size = np.linalg.norm(operators.system_matrix @ x) * np.linalg.norm(y)
    assert abs(forward - backward) < SINGLE_PRODUCT * size


def test_start_solves_the_truncated_least_squares_problem(small_system_matrix):
    operators = make_operators(small_system_matrix, rank=12)
    a = operators.system_matrix.astype(np.float64)
    u, s, vt = np.linalg.svd(a, full_matrices=False)
    truncated = u[:, :12] * s[:12] @ vt[:12]
    y = np.random.default_rng(5).standard_normal(operators.n_rows)
    # lstsq gives the solution of least norm; its cut lies in the gap below the 12th singular value.
    expected = np.linalg.lstsq(truncated, y, rcond=s[11] / s[0] / 2)[0]
    start = operators.start_matrix @ (operators.left_singular @ y)[:12]
    # The damping of each 1/s changes it by START_DAMPING / s, relative to the whole.
    tolerance = (START_DAMPING / s[11] + SINGLE_PRODUCT) * np.linalg.norm(expected)
    assert np.linalg.norm(start - expected) < tolerance


def test_default_rank_is_that_of_the_released_code(make_system_matrix):
    reference = make_system_matrix(Grid((26, 13, 1), (0.052, 0.026, 0.002)), 400, (60, 130), 2)
    assert make_operators(reference).rank == 220
    # Interpolation adds columns, not information: the start keeps what it kept on the coarse grid.
    assert make_operators(reference.upsampled(2)).rank == 220


def test_arrays_are_contiguous_and_single_precision(operators):
    for name in ("system_matrix", "inverse", "left_singular", "right_singular"):
        array = getattr(operators, name)
        assert array.dtype == np.float32, name
        assert array.flags.c_contiguous, name
    assert operators.singular_values.dtype == np.float64


def test_scaling_the_calibration_only_changes_the_scale(small_system_matrix, operators):
    louder = make_operators(replace(small_system_matrix, rows=8 * small_system_matrix.rows))
    assert louder.scale == pytest.approx(8 * operators.scale, rel=1e-12)
    np.testing.assert_allclose(louder.system_matrix, operators.system_matrix, rtol=0, atol=SINGLE)


def test_fewer_rows_than_voxels_still_give_the_inverse(make_system_matrix):
    wide = make_operators(make_system_matrix(Grid((7, 5, 1), (0.014, 0.010, 0.002)), 10, (6, 12), 3))
    a = wide.system_matrix.astype(np.float64)
    np.testing.assert_allclose(wide.inverse, np.linalg.inv(np.eye(35) + a.T @ a), rtol=0, atol=SINGLE)
    assert wide.left_singular.shape == (35, 20)
    assert not wide.left_singular[20:].any()
    assert not wide.singular_values[20:].any()
    assert wide.rank == 13  # 65 % of 20


def test_impossible_requests_are_refused(small_system_matrix):
    for rank in (0, 36):
        with pytest.raises(SelectionError, match="rank"):
            make_operators(small_system_matrix, rank=rank)
    with pytest.raises(SelectionError, match="zero"):
        make_operators(replace(small_system_matrix, rows=0 * small_system_matrix.rows))
