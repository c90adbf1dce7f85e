"""The eager opponents against formulas and independent solvers: the time of a wrong one proves nothing."""

from dataclasses import replace
from itertools import repeat

import cvxpy
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from benchmarks.contestants.eager_torch import (
    EagerFrame,
    TotalVariationPrior,
    adjoint_gradient,
    admm,
    gradient,
    kaczmarz,
    l1_prior,
    network_prior,
)

EXACT = 1e-12
"""Rounding of short sums in float64."""

CONVERGED = 1e-6
"""Where the iterations are stopped, well below what a wrong formula would give."""

CONVEX_SOLVER = 1e-4
"""Relative accuracy of cvxpy's solvers on these problems."""

SINGLE = 1e-5
"""Rounding of sums over some ten values in float32."""

SHAPE = (4, 3)


@pytest.fixture
def frame() -> EagerFrame:
    """Forty rows, twelve voxels, in double precision; the least-squares image has negative values."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(40, 12, generator=generator, dtype=torch.float64)
    truth = torch.rand(12, generator=generator, dtype=torch.float64).sub(0.4).clamp(min=0)
    noise = 0.1 * torch.randn(40, generator=generator, dtype=torch.float64)
    identity = torch.eye(12, dtype=torch.float64)
    data = matrix @ truth + noise
    return EagerFrame(
        system_matrix=matrix,
        row_energies=matrix.square().sum(dim=1),
        inverse=torch.linalg.inv(identity + matrix.T @ matrix),
        data=data,
        start=torch.linalg.lstsq(matrix, data).solution,
        epsilon=noise.norm().item(),
        image_shape=SHAPE,
    )


def test_one_row_update_follows_the_formula(frame: EagerFrame) -> None:
    a, y, damping = frame.system_matrix[7].numpy(), frame.data[7].item(), 2.5
    x = kaczmarz(frame, damping, [[7]])
    assert_allclose(x, np.maximum(a * y / (a @ a + damping), 0), rtol=EXACT)


def test_kaczmarz_converges_to_the_direct_solution(frame: EagerFrame) -> None:
    """With data whose Tikhonov image is positive nothing is clipped, and the sweeps solve the equations."""
    damping, matrix = 3.0, frame.system_matrix.numpy()
    positive = EagerFrame(
        **{**vars(frame), "data": frame.system_matrix @ torch.ones(12, dtype=torch.float64)}
    )
    expected = np.linalg.solve(matrix.T @ matrix + damping * np.eye(12), matrix.T @ positive.data.numpy())
    assert (expected > 0).all()
    found = kaczmarz(positive, damping, repeat(range(40), 300))
    assert_allclose(found, expected, rtol=CONVERGED)


def test_kaczmarz_visits_the_rows_as_told_and_clips_after_each_sweep(frame: EagerFrame) -> None:
    matrix, y, damping = frame.system_matrix.numpy(), frame.data.numpy(), 1.0
    orders = [range(40), range(39, -1, -2)]
    x, v = np.zeros(12), np.zeros(40)
    was_clipped = False
    for order in orders:
        for row in order:
            beta = (y[row] - matrix[row] @ x - v[row]) / (matrix[row] @ matrix[row] + damping)
            x += beta * matrix[row]
            v[row] += beta
        was_clipped |= (x < 0).any()
        x = np.maximum(x, 0)
    assert was_clipped
    assert_allclose(kaczmarz(frame, damping, orders), x, rtol=EXACT, atol=EXACT)


def convex_solution(frame: EagerFrame, prior: "cvxpy.Expression", x: "cvxpy.Variable") -> np.ndarray:
    """Minimise a prior over non-negative images in the ball of the data."""
    misfit = frame.system_matrix.numpy() @ x - frame.data.numpy()
    cvxpy.Problem(cvxpy.Minimize(prior), [cvxpy.norm(misfit) <= frame.epsilon]).solve()
    return np.asarray(x.value)


def test_admm_with_l1_solves_the_convex_problem(frame: EagerFrame) -> None:
    x = cvxpy.Variable(12, nonneg=True)
    expected = convex_solution(frame, cvxpy.norm1(x), x)
    found = admm(frame, l1_prior(0.02), 5000).numpy()
    assert np.linalg.norm(found - expected) <= CONVEX_SOLVER * np.linalg.norm(expected)


def test_admm_starts_at_the_least_squares_image(frame: EagerFrame) -> None:
    assert_allclose(admm(frame, l1_prior(0.02), 0), frame.start.clamp(min=0), rtol=EXACT)


@pytest.mark.parametrize("l1", [0.0, 0.05])
def test_total_variation_solves_the_convex_problem(l1: float) -> None:
    v = np.random.default_rng(1).standard_normal((6, 5))
    weight = 0.2
    x = cvxpy.Variable(v.shape, nonneg=True)
    down, right = np.diff(np.eye(6), axis=0), np.diff(np.eye(5), axis=0)
    slopes = cvxpy.vstack(
        [
            cvxpy.vec(cvxpy.vstack([down @ x, np.zeros((1, 5))]), order="C"),
            cvxpy.vec(cvxpy.hstack([x @ right.T, np.zeros((6, 1))]), order="C"),
        ]
    )
    variation = cvxpy.sum(cvxpy.norm(slopes, axis=0))
    cost = 0.5 * cvxpy.sum_squares(x - v) + weight * variation + l1 * cvxpy.sum(x)
    cvxpy.Problem(cvxpy.Minimize(cost)).solve()
    prior = TotalVariationPrior(weight, l1, tolerance=CONVERGED, max_iterations=20_000)
    found = prior(torch.from_numpy(v)).numpy()
    assert np.linalg.norm(found - x.value) <= CONVEX_SOLVER * np.linalg.norm(v)


def test_total_variation_goes_on_from_its_dual() -> None:
    """The second call starts where the first one ended, so it is finished at once."""
    v = torch.from_numpy(np.random.default_rng(2).standard_normal((6, 5)))
    prior = TotalVariationPrior(0.2, 0.0, tolerance=CONVERGED, max_iterations=20_000)
    first = prior(v)
    prior._max_iterations = 0
    assert_allclose(prior(v), first, atol=EXACT)


def test_the_adjoint_is_the_adjoint() -> None:
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    dual = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    assert_allclose((gradient(image) * dual).sum(), (image * adjoint_gradient(dual)).sum(), rtol=EXACT)


def test_the_denoiser_sees_images_of_its_scale() -> None:
    seen = []

    def network(v: torch.Tensor) -> torch.Tensor:
        seen.append(v)
        return 0.5 * v

    image = torch.full(SHAPE, 6.0)
    found = network_prior(network, 3.0)(image)  # type: ignore[arg-type]
    assert_allclose(seen[0], np.full((1, 1, *SHAPE), 2.0))
    assert_allclose(found, np.full(SHAPE, 3.0))


def test_double_precision_is_the_same_problem(frame: EagerFrame) -> None:
    tensors = {name: value.float() for name, value in vars(frame).items() if torch.is_tensor(value)}
    double = replace(frame, **tensors).in_double_precision()
    for name, value in tensors.items():
        found = getattr(double, name)
        assert found.dtype == torch.float64
        assert_allclose(found, value, rtol=SINGLE, atol=SINGLE)
    matrix, inverse = double.system_matrix.numpy(), double.inverse.numpy()
    assert_allclose(inverse @ (np.eye(12) + matrix.T @ matrix), np.eye(12), atol=EXACT)
