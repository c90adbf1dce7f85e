"""The two forms of the products against the formulas in double precision."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import PairingError
from engine.mpi.grid import Grid
from engine.mpi.row_layout import Acquisition, RowLayout
from engine.operators.factorisation import make_factored_operators, make_operators
from engine.operators.operators import DenseMatrices, Operators
from engine.operators.products import DenseProducts, FactoredProducts, products_of

SINGLE = 3e-6
"""Relative to the operands' norms times the operator's: float32 sums of at most some hundred products."""

BUFFER_BYTES = 4096
"""What Python itself allocates for a few views and calls; any work array of the test is larger."""


def random_operators(n_rows, n_voxels, n_triplets, seed, dense):
    """Operators of random factors; every product is defined by these alone."""
    rng = np.random.default_rng(seed)
    u, _ = np.linalg.qr(rng.standard_normal((n_rows, n_triplets)))
    v, _ = np.linalg.qr(rng.standard_normal((n_voxels, n_triplets)))
    s = np.sort(10 ** rng.uniform(-3, np.log10(25), n_triplets))[::-1]
    a = u * s @ v.T
    matrices = None
    if dense:
        inverse = np.linalg.inv(np.eye(n_voxels) + a.T @ a)
        matrices = DenseMatrices(a.astype(np.float32), inverse.astype(np.float32))
    return Operators(
        grid=Grid((n_voxels, 1, 1), (0.01, 0.01, 0.01)),
        layout=RowLayout((1, n_rows), np.arange(n_rows // 2)),
        acquisition=Acquisition(1e6, 10, 1, 1, np.array([0]), np.arange(n_rows)),
        noise_std=np.ones(n_rows // 2),
        scale=1.0,
        left_singular=np.ascontiguousarray(u.T, np.float32),
        singular_values=s,
        right_singular=np.ascontiguousarray(v, np.float32),
        rank=1,
        dense=matrices,
    )


def formulas(operators):
    """A and M of the triplets in double precision, M as the inverse that defines it."""
    u, v = operators.left_singular.T.astype(np.float64), operators.right_singular.astype(np.float64)
    a = u * operators.singular_values @ v.T
    return a, np.linalg.inv(np.eye(len(v)) + a.T @ a)


def assert_products(operators, products, n_frames, rng):
    a, m = formulas(operators)
    rows = rng.standard_normal((n_frames, operators.n_rows)).astype(np.float32)
    image = rng.standard_normal((n_frames, operators.n_voxels)).astype(np.float32)
    kept = rows.copy(), image.copy()
    data, weighed = np.full_like(rows, np.nan), np.full_like(image, np.nan)
    middle = int(rng.integers(operators.n_rows + 1))
    products.rows_of(image, data, middle, operators.n_rows)
    assert np.isnan(data[:, :middle]).all()
    products.rows_of(image, data, 0, middle)
    products.images_of_rows(rows, weighed)
    products.add_images_of_images(image, weighed)
    np.testing.assert_array_equal(kept[0], rows)
    np.testing.assert_array_equal(kept[1], image)
    size = np.linalg.norm(rows) + np.linalg.norm(image)
    np.testing.assert_allclose(data, image @ a.T, rtol=0, atol=SINGLE * 25 * np.linalg.norm(image))
    np.testing.assert_allclose(weighed, (rows @ a + image) @ m.T, rtol=0, atol=SINGLE * size)


@settings(max_examples=60, deadline=None)
@given(
    half_rows=st.integers(1, 40),
    n_voxels=st.integers(1, 50),
    share=st.floats(0, 1),
    n_frames=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_factored_products_are_those_of_the_matrix_of_their_triplets(
    half_rows, n_voxels, share, n_frames, seed
):
    side = min(2 * half_rows, n_voxels)
    operators = random_operators(2 * half_rows, n_voxels, max(1, round(share * side)), seed, dense=False)
    assert_products(operators, FactoredProducts(operators), n_frames, np.random.default_rng(seed))


@settings(max_examples=30, deadline=None)
@given(
    half_rows=st.integers(1, 40),
    n_voxels=st.integers(1, 50),
    n_frames=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_dense_products_are_those_of_the_matrices(half_rows, n_voxels, n_frames, seed):
    side = min(2 * half_rows, n_voxels)
    operators = random_operators(2 * half_rows, n_voxels, side, seed, dense=True)
    assert_products(operators, DenseProducts(operators), n_frames, np.random.default_rng(seed))


@pytest.mark.parametrize("form", [DenseProducts, FactoredProducts])
def test_frames_may_be_parts_of_longer_states_and_change_in_number(form) -> None:
    operators = random_operators(30, 20, 20, 0, dense=True)
    products = form(operators)
    rng = np.random.default_rng(1)
    for n_frames in (2, 5, 1, 3):
        state = rng.standard_normal((n_frames, 70)).astype(np.float32)
        out = np.full_like(state, np.nan)
        products.images_of_rows(state[:, 20:50], out[:, :20])
        products.add_images_of_images(state[:, :20], out[:, :20])
        products.rows_of(state[:, 50:], out[:, 20:50], 0, 30)
        for frame in range(n_frames):
            one = state[frame : frame + 1]
            image, rows = np.empty((1, 20), np.float32), np.empty((1, 30), np.float32)
            products.images_of_rows(one[:, 20:50], image)
            products.add_images_of_images(one[:, :20], image)
            products.rows_of(one[:, 50:], rows, 0, 30)
            np.testing.assert_allclose(out[frame, :20], image[0], rtol=0, atol=SINGLE * 10)
            np.testing.assert_allclose(out[frame, 20:50], rows[0], rtol=0, atol=SINGLE * 250)
        assert np.isnan(out[:, 50:]).all()


@pytest.mark.parametrize("form", [DenseProducts, FactoredProducts])
@pytest.mark.parametrize("n_frames", [1, 3])
def test_nothing_is_allocated_once_the_number_of_frames_was_seen(form, n_frames) -> None:
    operators = random_operators(1600, 1500, 2, 0, dense=False)
    if form is DenseProducts:
        matrices = DenseMatrices(np.ones((1600, 1500), np.float32), np.eye(1500, dtype=np.float32))
        operators = replace(operators, dense=matrices)
    products = form(operators)
    image, rows = np.ones((n_frames, 1500), np.float32), np.ones((n_frames, 1600), np.float32)
    data, weighed = np.empty_like(rows), np.empty_like(image)

    def all_products() -> None:
        products.images_of_rows(rows, weighed)
        products.add_images_of_images(image, weighed)
        products.rows_of(image, data, 0, 1600)

    all_products()
    tracemalloc.start()
    try:
        all_products()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < BUFFER_BYTES


def test_operators_choose_the_form_that_they_hold(small_system_matrix) -> None:
    assert isinstance(products_of(make_operators(small_system_matrix)), DenseProducts)
    factored = make_factored_operators(small_system_matrix, 12)
    assert isinstance(products_of(factored), FactoredProducts)
    with pytest.raises(PairingError, match=r"12 singular triplets .*--factors"):
        DenseProducts(factored)
