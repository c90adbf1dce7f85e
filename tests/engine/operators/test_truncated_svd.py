"""The leading triplets against the full decomposition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine.operators.truncated_svd
from engine.operators.truncated_svd import randomised_svd, truncated_svd

DOUBLE = 1e-12
"""Relative to ||A||: double precision over a few products of some hundred terms."""

NEAR_BEST = 1.01
"""Frobenius error over the smallest possible one, as the module promises for a slow decay."""

SQUARED_DOUBLE = 1e-7
"""Relative to ||A||: a small norm taken from the difference of two squares of about ||A||^2."""

NORM_TOLERANCE = 0.01
"""Of the spectral norm of the rest, by Lanczos iterations to 1e-3."""


def matrix_of_decay(n_rows, n_columns, decades, seed=0, rank=None):
    """A random matrix whose singular values fall from 1 by so many decades, evenly on a logarithmic scale."""
    rng = np.random.default_rng(seed)
    rank = rank or min(n_rows, n_columns)
    u, _ = np.linalg.qr(rng.standard_normal((n_rows, rank)))
    v, _ = np.linalg.qr(rng.standard_normal((n_columns, rank)))
    return u * 10 ** (-decades * np.arange(rank) / rank) @ v.T


def assert_orthonormal(factor):
    np.testing.assert_allclose(factor.T @ factor, np.eye(factor.shape[1]), rtol=0, atol=DOUBLE)


@settings(max_examples=40, deadline=None)
@given(
    n_rows=st.integers(1, 40), n_columns=st.integers(1, 40), share=st.floats(0, 1), seed=st.integers(0, 999)
)
def test_small_matrices_are_decomposed_exactly(n_rows, n_columns, share, seed):
    matrix = np.random.default_rng(seed).standard_normal((n_rows, n_columns))
    n_triplets = max(1, round(share * min(matrix.shape)))
    found = truncated_svd(matrix, n_triplets)
    s = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(found.s, s[:n_triplets], rtol=0, atol=DOUBLE * s[0])
    assert_orthonormal(found.left)
    assert_orthonormal(found.right)
    rest = matrix - found.left * found.s @ found.right.T
    assert found.dropped_norm == pytest.approx(np.linalg.norm(rest), abs=DOUBLE * s[0])
    assert found.largest_dropped == pytest.approx(np.linalg.norm(rest, 2), abs=DOUBLE * s[0])


@settings(max_examples=20, deadline=None)
@given(
    n_rows=st.integers(30, 150),
    n_columns=st.integers(30, 150),
    n_triplets=st.integers(1, 25),
    decades=st.floats(0.5, 8),
    seed=st.integers(0, 999),
)
def test_the_range_finder_says_what_it_drops(n_rows, n_columns, n_triplets, decades, seed):
    matrix = matrix_of_decay(n_rows, n_columns, decades, seed)
    found = randomised_svd(matrix, n_triplets)
    assert_orthonormal(found.left)
    assert_orthonormal(found.right)
    assert np.all(np.diff(found.s) <= 0)
    rest = matrix - found.left * found.s @ found.right.T
    assert found.dropped_norm == pytest.approx(np.linalg.norm(rest), rel=1e-6, abs=SQUARED_DOUBLE)
    assert found.largest_dropped == pytest.approx(np.linalg.norm(rest, 2), rel=NORM_TOLERANCE)


@pytest.mark.parametrize("n_triplets", [20, 100])
def test_the_range_finder_is_near_the_best_approximation(n_triplets) -> None:
    """At a decay as slow as that of a measured system matrix: three decades over all singular values."""
    matrix = matrix_of_decay(700, 400, 3)
    s = 10 ** (-3 * np.arange(400) / 400)
    found = randomised_svd(matrix, n_triplets)
    best = np.linalg.norm(s[n_triplets:])
    assert best * (1 - DOUBLE) <= found.dropped_norm <= NEAR_BEST * best
    half = n_triplets // 2
    np.testing.assert_allclose(found.s[:half], s[:half], rtol=NEAR_BEST - 1)


def test_the_range_finder_repeats_itself() -> None:
    matrix = matrix_of_decay(80, 60, 3)
    for first, second in zip(randomised_svd(matrix, 10), randomised_svd(matrix, 10), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("decompose", [truncated_svd, randomised_svd])
def test_a_matrix_of_low_rank_is_found_whole(decompose) -> None:
    matrix = matrix_of_decay(80, 60, 2, rank=12)
    found = decompose(matrix, 20)
    assert found.numerical_rank == 12
    assert found.dropped_norm < SQUARED_DOUBLE
    np.testing.assert_allclose(found.left * found.s @ found.right.T, matrix, rtol=0, atol=DOUBLE)
    assert_orthonormal(found.left)
    assert_orthonormal(found.right)


def test_only_large_matrices_of_few_wanted_triplets_are_searched_at_random(monkeypatch) -> None:
    asked = []

    def searched(matrix, n_triplets):
        asked.append(n_triplets)
        return randomised_svd(matrix, n_triplets)

    monkeypatch.setattr(engine.operators.truncated_svd, "randomised_svd", searched)
    matrix = matrix_of_decay(60, 50, 3)
    truncated_svd(matrix, 10)
    monkeypatch.setattr(engine.operators.truncated_svd, "EXACT_SIDE", 40)
    truncated_svd(matrix, 26)
    assert asked == []
    found = truncated_svd(matrix, 10)
    assert asked == [10]
    assert found.numerical_rank is None  # more than 10, and few more were looked at


@pytest.mark.parametrize("n_triplets", [3, 20])
def test_a_matrix_that_leaves_exactly_nothing_is_found_whole(n_triplets) -> None:
    matrix = np.zeros((60, 50))
    matrix[:3, :3] = 2 * np.eye(3)
    found = randomised_svd(matrix, n_triplets)
    assert (found.numerical_rank, found.dropped_norm, found.largest_dropped) == (3, 0.0, 0.0)
    np.testing.assert_allclose(found.left * found.s @ found.right.T, matrix, rtol=0, atol=DOUBLE)
