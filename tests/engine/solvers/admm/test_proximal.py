"""Proximal maps against closed forms, a conic solver, another algorithm, and their defining properties."""

import cvxpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.restoration import denoise_tv_chambolle

from engine.errors import ConfigError
from engine.solvers.admm.proximal import prox_hybrid, prox_l1, prox_tv

TIGHT = 1e-7
"""Tolerance handed to the solver, where the closed form is the oracle."""

CLOSED_FORM_TOLERANCE = 1e-6
"""Absolute, for images of size 1 and norm below 10 solved to TIGHT: their error is at most TIGHT norm(v)."""

CONIC_TOLERANCE = 1e-6
"""Absolute, for images of size 1: the interior-point solver stops at 1e-11 of the objective, which leaves
about the square root of it in x (2e-7 seen)."""

CHAMBOLLE_ITERATIONS = 5000

CHAMBOLLE_TOLERANCE = 3e-5
"""Absolute, for images of size 1: what that many iterations leave (1e-5 seen, 2e-4 after 1000)."""


def total_variation(x):
    """Sum of the lengths of the forward differences, zero across the border."""
    return np.hypot(np.diff(x, axis=0, append=x[-1:]), np.diff(x, axis=1, append=x[:, -1:])).sum()


def gradient_adjoint(p):
    """Transpose of the forward differences, for dual fields that are zero across the border."""
    return -np.diff(p[0], axis=0, prepend=0) - np.diff(p[1], axis=1, prepend=0)


def duality_gap(x, v, weight, dual):
    """Primal value of x less dual value of the field, each by its definition."""
    assert np.hypot(*dual).max() <= 1 + 1e-12
    assert not dual[0, -1].any()
    assert not dual[1, :, -1].any()
    primal = 0.5 * np.sum((x - v) ** 2) + weight * total_variation(x)
    u = v - weight * gradient_adjoint(dual)
    minimiser = np.maximum(u, 0)
    value = 0.5 * np.sum((minimiser - v) ** 2) + weight * np.sum(minimiser * gradient_adjoint(dual))
    return primal - value


def conic_solution(v, l1, tv):
    """The proximal point from an interior-point method, from the definition."""
    x = cvxpy.Variable(v.shape, nonneg=True)
    down = cvxpy.vstack([x[1:] - x[:-1], np.zeros((1, v.shape[1]))])
    right = cvxpy.hstack([x[:, 1:] - x[:, :-1], np.zeros((v.shape[0], 1))])
    lengths = cvxpy.norm(cvxpy.vstack([cvxpy.vec(down, order="C"), cvxpy.vec(right, order="C")]), 2, axis=0)
    cost = 0.5 * cvxpy.sum_squares(x - v) + l1 * cvxpy.sum(x) + tv * cvxpy.sum(lengths)
    problem = cvxpy.Problem(cvxpy.Minimize(cost))
    problem.solve(solver=cvxpy.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
    return x.value


def noisy_blobs(n_frames, shape, seed):
    rng = np.random.default_rng(seed)
    i, j = np.indices(shape)
    images = [
        np.exp(-((i - a * shape[0]) ** 2 + (j - b * shape[1]) ** 2) / 4) for a, b in rng.random((n_frames, 2))
    ]
    return np.array(images) + 0.15 * rng.standard_normal((n_frames, *shape))


def test_l1_satisfies_the_optimality_conditions() -> None:
    v = noisy_blobs(2, (6, 5), 0)
    weight = np.array([0.05, 0.3])
    x = prox_l1(v, weight)
    slope = x - v + weight[:, None, None]  # of the objective on x >= 0
    assert (x >= 0).all()
    np.testing.assert_allclose(slope[x > 0], 0, atol=1e-15)
    assert (slope[x == 0] >= 0).all()
    assert 0 < np.count_nonzero(x[1]) < np.count_nonzero(x[0]) < x[0].size


def test_tv_leaves_a_constant_image() -> None:
    """Weights of one call differ; the second image is below zero, whose nearest x >= 0 is zero."""
    v = np.stack([np.full((4, 6), 0.7), np.full((4, 6), -0.2)])
    np.testing.assert_array_equal(prox_tv(v, [3.0, 0.1]), np.maximum(v, 0))


@pytest.mark.parametrize("shape", [(1, 2), (2, 1)])
def test_tv_of_two_voxels(shape) -> None:
    """Each moves towards the other by the weight until they meet in their mean."""
    v = np.array([[0.3, 1.0]] * 3).reshape(3, *shape)
    found = prox_tv(v, [0.1, 0.35, 5.0], tolerance=TIGHT).reshape(3, 2)
    np.testing.assert_allclose(found, [[0.4, 0.9], [0.65, 0.65], [0.65, 0.65]], atol=CLOSED_FORM_TOLERANCE)


def test_tv_of_two_voxels_at_the_bound() -> None:
    """The lower value stays at zero while the upper one comes down by the weight; then both rise together."""
    v = np.array([[[-0.5, 1.0]]] * 3)
    found = prox_tv(v, [0.2, 0.7, 2.0], tolerance=TIGHT)
    np.testing.assert_allclose(found[:, 0], [[0, 0.8], [0.2, 0.3], [0.25, 0.25]], atol=CLOSED_FORM_TOLERANCE)


@pytest.mark.parametrize("axis", [0, 1])
def test_tv_shrinks_a_step_by_what_its_sides_weigh(axis) -> None:
    """Per row, the plateau of n voxels moves by w / n, so a plateau of 3 moves 5 / 3 as far as one of 5."""
    profile = np.array([0.2] * 3 + [1.2] * 5)
    expected = np.array([0.2 + 0.3 / 3] * 3 + [1.2 - 0.3 / 5] * 5)
    v = np.moveaxis(np.tile(profile, (4, 1)), 1, axis)
    found = prox_tv(v[None], 0.3, tolerance=TIGHT)[0]
    np.testing.assert_allclose(
        np.moveaxis(found, axis, 1), np.tile(expected, (4, 1)), atol=2 * CLOSED_FORM_TOLERANCE
    )


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-6])
def test_tv_meets_its_tolerance_by_the_duality_gap(tolerance) -> None:
    """The gap by its definition bounds the error, and the bound is neither missed nor far overshot."""
    v = noisy_blobs(3, (9, 7), 1)
    weight = np.array([0.03, 0.1, 0.5])
    dual = np.zeros((3, 2, 9, 7))
    found = prox_tv(v, weight, tolerance=tolerance, dual=dual)
    best = prox_tv(v, weight, tolerance=TIGHT)
    for frame in range(3):
        gap = duality_gap(found[frame], v[frame], weight[frame], dual[frame])
        size = np.linalg.norm(v[frame])
        # Primal and dual value, about 1 each, are subtracted here: rounding of 1e-15 is left.
        assert -1e-14 <= gap <= 0.5 * (tolerance * size) ** 2 + 1e-14
        assert np.linalg.norm(found[frame] - best[frame]) <= (tolerance + TIGHT) * size
    assert np.abs(found - best).max() > 1e-5 * tolerance


@pytest.mark.parametrize(("l1", "tv"), [(0.0, 0.05), (0.0, 0.4), (0.05, 0.1), (0.2, 0.02)])
def test_tv_and_hybrid_are_the_conic_solutions(l1, tv) -> None:
    v = noisy_blobs(2, (6, 5), 2) - 0.15
    found = prox_hybrid(v, l1, tv, tolerance=TIGHT)
    for frame in range(2):
        np.testing.assert_allclose(found[frame], conic_solution(v[frame], l1, tv), atol=CONIC_TOLERANCE)
    if l1 == 0:
        np.testing.assert_array_equal(prox_tv(v, tv, tolerance=TIGHT), found)
    assert (found == 0).any()
    assert (found > 0).any()


def test_tv_agrees_with_chambolle_where_the_bound_is_inactive() -> None:
    """scikit-image minimises TV + ||x - v||^2 / (2 weight) with the same differences."""
    v = 2 + noisy_blobs(1, (8, 11), 3)[0]
    theirs = denoise_tv_chambolle(v, weight=0.2, eps=0, max_num_iter=CHAMBOLLE_ITERATIONS)
    np.testing.assert_allclose(prox_tv(v[None], 0.2, tolerance=TIGHT)[0], theirs, atol=CHAMBOLLE_TOLERANCE)


def test_single_precision_in_single_precision_out() -> None:
    v = noisy_blobs(2, (6, 5), 4).astype(np.float32)
    for found, exact in (
        (prox_l1(v, 0.1), prox_l1(v.astype(np.float64), 0.1)),
        (prox_tv(v, 0.1), prox_tv(v.astype(np.float64), 0.1)),
        (prox_hybrid(v, 0.1, 0.1), prox_hybrid(v.astype(np.float64), 0.1, 0.1)),
    ):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, exact, atol=1e-4)


def test_a_frame_does_not_depend_on_the_others() -> None:
    v = noisy_blobs(3, (6, 5), 5)
    together = prox_hybrid(v, [0.01, 0.05, 0.1], [0.3, 0.2, 0.1])
    alone = [
        prox_hybrid(v[f : f + 1], l1, tv)[0] for f, l1, tv in ((0, 0.01, 0.3), (1, 0.05, 0.2), (2, 0.1, 0.1))
    ]
    np.testing.assert_array_equal(together, alone)


def test_the_dual_of_the_last_call_spares_iterations() -> None:
    """No iteration at all suffices from the solution, and none is done; from zeros none does."""
    v = noisy_blobs(2, (9, 7), 6)
    dual = np.zeros((2, 2, 9, 7))
    solved = prox_tv(v, 0.1, tolerance=1e-5, dual=dual)
    kept = dual.copy()
    again = prox_tv(v, 0.1, tolerance=1e-5, max_iterations=0, dual=dual)
    np.testing.assert_array_equal(again, solved)
    np.testing.assert_array_equal(dual, kept)
    assert np.abs(prox_tv(v, 0.1, max_iterations=0) - solved).max() > 0.05


def test_non_finite_images_end_at_once_and_stay_visible() -> None:
    v = noisy_blobs(2, (6, 5), 7)
    expected = prox_tv(v[1:], 0.1)
    v[0, 2, 2] = np.nan
    found = prox_tv(v, 0.1)
    assert np.isnan(found[0, 2, 2])
    np.testing.assert_array_equal(found[1:], expected)


@pytest.mark.parametrize("weight", [-0.1, np.nan, np.inf, [0.1, -1.0]])
def test_weights_that_are_none_are_refused(weight) -> None:
    v = np.zeros((2, 3, 3))
    for call in (prox_l1, prox_tv, lambda v, w: prox_hybrid(v, w, 0.1), lambda v, w: prox_hybrid(v, 0.1, w)):
        with pytest.raises(ConfigError, match="weight is"):
            call(v, weight)


IMAGES = arrays(np.float64, (1, 4, 5), elements=st.floats(-2, 2, width=32))
WEIGHTS = st.floats(0, 1)


@settings(deadline=None, max_examples=40)
@given(IMAGES, IMAGES, WEIGHTS, WEIGHTS)
def test_maps_are_firmly_non_expansive(a, b, l1, tv) -> None:
    """||Pa - Pb||^2 <= (Pa - Pb) . (a - b) holds for every proximal map."""
    image_a, image_b = (prox_hybrid(v, l1, tv, tolerance=1e-5) for v in (a, b))
    difference = image_a - image_b
    slack = np.sum(difference * (a - b)) - np.sum(difference**2)
    # Each image is within 1e-5 of norm(v) of the exact one, and no norm exceeds 2 sqrt(20) < 9.
    assert slack >= -4 * 1e-5 * 9 * (np.linalg.norm(a - b) + np.linalg.norm(difference))


@settings(deadline=None, max_examples=40)
@given(IMAGES, WEIGHTS)
def test_tv_keeps_the_mean_above_the_bound(v, weight) -> None:
    """x - v is a divergence, which sums to zero; shifting v by a constant shifts x."""
    found = prox_tv(v + 3, weight, tolerance=1e-5)
    assert found.mean() == pytest.approx(v.mean() + 3, abs=1e-12)
    np.testing.assert_allclose(prox_tv(v + 4, weight, tolerance=1e-5), found + 1, atol=2 * 1e-5 * 27)


@settings(deadline=None, max_examples=20)
@given(IMAGES)
def test_zero_weight_only_clips(v) -> None:
    for found in (prox_l1(v, 0.0), prox_tv(v, 0.0), prox_hybrid(v, 0.0, 0.0)):
        np.testing.assert_array_equal(found, np.maximum(v, 0))


def test_a_large_weight_leaves_the_mean() -> None:
    v = 1 + noisy_blobs(1, (6, 5), 8)
    np.testing.assert_allclose(prox_tv(v, 100.0, tolerance=TIGHT), v.mean(), atol=CLOSED_FORM_TOLERANCE)
