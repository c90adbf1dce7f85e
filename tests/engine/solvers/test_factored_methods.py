"""Every method on K singular triplets against the same method on the matrix that they make up."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.fixed_point.solve import FixedPointConfig
from engine.measurement.normalization import normalize
from engine.mpi.grid import Grid
from engine.operators.factorisation import make_factored_operators, make_operators
from engine.operators.operators import SPECTRAL_NORM
from engine.solvers.admm.ball_equilibrium import BallEquilibrium
from engine.solvers.admm.ball_step import BallStep
from engine.solvers.admm.hand_crafted import AdmmHybrid, AdmmL1, AdmmTv
from engine.solvers.admm.plug_and_play import PlugAndPlay
from engine.solvers.admm.unrolled import Unrolled
from engine.solvers.deq.equilibrium import Equilibrium
from engine.solvers.end_to_end import EndToEnd
from engine.solvers.least_squares import LeastSquares
from engine.solvers.regularization import MethodWeights, SnrCurve
from engine.solvers.tikhonov import Tikhonov

N_TRIPLETS = 14

RANK = 9
"""Of the least-squares start."""

SINGLE = 3e-5
"""Relative; single precision over 20 iterations of two forms of the same map, A of norm 25."""

STEP = 5e-6
"""Of the state's norm: one map in single precision against double."""

ROUNDING = 2e-6
"""Relative; one rounding of the image, and of a few hundred sums."""


@pytest.fixture(scope="module")
def pair(make_system_matrix):
    """Operators of K triplets, dense ones of the matrix U diag(s) V^T, and frames for both.

    The measurements are explained only in part by the truncated matrix, as those of a scanner are.
    """
    full = make_system_matrix(Grid((7, 5, 1), (0.014, 0.010, 0.002)), 60, (6, 12), 3)
    a = full.real_rows()
    u, s, vt = np.linalg.svd(a, full_matrices=False)
    a_truncated = u[:, :N_TRIPLETS] * s[:N_TRIPLETS] @ vt[:N_TRIPLETS]
    dense = make_operators(replace(full, rows=a_truncated[:60] + 1j * a_truncated[60:]), rank=RANK)
    factored = make_factored_operators(full, N_TRIPLETS, rank=RANK)
    assert factored.scale == pytest.approx(dense.scale)
    rng = np.random.default_rng(4)
    images = np.maximum(rng.standard_normal((3, 35)), 0)
    rows = images @ a.T
    rows += 0.05 * rows.std() * rng.standard_normal(rows.shape)
    sigma = 0.1 * rows.std()
    return (
        (dense, [normalize(frame, dense, sigma) for frame in rows]),
        (factored, [normalize(frame, factored, sigma) for frame in rows]),
    )


def prior(v, _noise):
    """A bent, clipped mixture of neighbouring voxels."""
    return np.maximum(np.tanh(0.6 * v + 0.3 * np.roll(v, 1, axis=-1)), 0).astype(np.float32)


def ball(v, y, _mask, epsilon):
    """Eq. (10) on the dense layout."""
    difference = v - y
    norms = np.sqrt(np.sum(difference**2, axis=(1, 2, 3), keepdims=True))
    return y + difference * np.minimum(1.0, epsilon / norms)


def constants(iterations, **weights):
    return MethodWeights({name: SnrCurve.constant(value) for name, value in weights.items()}, iterations)


TWENTY = FixedPointConfig(max_iterations=20, tolerance=0.0, memory=0)

METHODS = {
    "least-squares": LeastSquares,
    "tikhonov": lambda operators: Tikhonov(operators, constants(50, **{"lambda": 0.5})),
    "admm-l1": lambda operators: AdmmL1(operators, constants(20, l1=0.05), tolerance=0.0),
    "admm-tv": lambda operators: AdmmTv(operators, constants(20, tv=0.05), tolerance=0.0),
    "admm-hybrid": lambda operators: AdmmHybrid(operators, constants(20, l1=0.02, tv=0.03), tolerance=0.0),
    "pp-mpi": lambda operators: PlugAndPlay(operators, prior, constants(20, scale=1.0), tolerance=0.0),
    "unrolled": lambda operators: Unrolled(operators, prior, 5),
    "end-to-end": lambda operators: EndToEnd(operators, prior),
    "deq-ball": lambda operators: BallEquilibrium(operators, prior, TWENTY),
    "deq": lambda operators: Equilibrium(operators, prior, ball, TWENTY),
}


@pytest.mark.parametrize("method", METHODS)
def test_images_are_those_of_the_truncated_matrix(pair, method) -> None:
    dense, factored = ([s.value for s in METHODS[method](o).solve(m)] for o, m in pair)
    for expected, found in zip(dense, factored, strict=True):
        assert found.dtype == np.float32
        assert np.linalg.norm(found - expected) < SINGLE * np.linalg.norm(expected)


def test_the_dropped_triplets_matter(pair, make_system_matrix) -> None:
    """Else the test above could not tell the truncated matrix from the whole one."""
    full = make_system_matrix(Grid((7, 5, 1), (0.014, 0.010, 0.002)), 60, (6, 12), 3)
    operators = make_factored_operators(full, 35, rank=RANK)
    factored, measurements = pair[1]
    rows = measurements[0].y * measurements[0].intensity * factored.scale
    measurement = normalize(rows, operators, measurements[0].sigma)
    other = METHODS["admm-l1"](operators).solve([measurement])[0].value
    found = METHODS["admm-l1"](factored).solve(measurements)[0].value
    assert np.linalg.norm(found - other) > 100 * SINGLE * np.linalg.norm(other)


def test_measurements_are_the_same_in_all_rows(pair) -> None:
    for dense, factored in zip(pair[0][1], pair[1][1], strict=True):
        assert factored.intensity == pytest.approx(dense.intensity, rel=ROUNDING)
        np.testing.assert_allclose(factored.y, dense.y, rtol=ROUNDING)
        np.testing.assert_allclose(factored.start, dense.start, rtol=0, atol=ROUNDING * 10)
        assert factored.explained.shape == (N_TRIPLETS,)


@settings(max_examples=30, deadline=None)
@given(
    n_triplets=st.integers(1, 20),
    size=st.tuples(st.integers(2, 6), st.integers(2, 6), st.integers(1, 3)),
    n_frames=st.integers(1, 3),
    seed=st.integers(0, 999),
)
def test_a_ball_step_of_any_size_is_the_equations_on_all_rows(
    make_system_matrix, n_triplets, size, n_frames, seed
) -> None:
    """Eqs. (5)-(10) in double precision with the matrix U diag(s) V^T and its inverse, in 2-D and 3-D."""
    grid = Grid(size, (0.01, 0.01, 0.01))
    n_triplets = min(n_triplets, grid.n_voxels)
    operators = make_factored_operators(make_system_matrix(grid, 20, (4, 8), seed), n_triplets, rank=1)
    u, v = operators.left_singular.T.astype(np.float64), operators.right_singular.astype(np.float64)
    a = u * operators.singular_values @ v.T
    m = np.linalg.inv(np.eye(grid.n_voxels) + a.T @ a)
    rng = np.random.default_rng(seed)
    y, epsilon = rng.standard_normal((n_frames, 40)), rng.uniform(0.1, 3, n_frames)
    explained = y @ u
    outside = y - explained @ u.T
    remainder = np.linalg.norm(outside, axis=1)
    step = BallStep(operators, prior)
    step.set_measurements(explained, remainder, epsilon)
    z = rng.standard_normal((n_frames, step.state_size)).astype(np.float32)
    out = np.empty_like(z)
    step(z, out)
    cuts = [grid.n_voxels, grid.n_voxels + n_triplets, grid.n_voxels + n_triplets + 1]
    for frame in range(n_frames):
        x, seen, along, d1 = np.split(z[frame].astype(np.float64), cuts)
        direction = outside[frame] / remainder[frame]
        d0 = u @ seen + along * direction
        offset = a @ x - d0 - y[frame]
        z0 = y[frame] + offset * min(1.0, epsilon[frame] / np.linalg.norm(offset))
        z1 = prior((x - d1).reshape(grid.volume_shape), None).reshape(-1)
        image = m @ (a.T @ (z0 + d0) + z1 + d1)
        dual = d0 + z0 - a @ image
        expected = np.concatenate([image, dual @ u, [dual @ direction], d1 + z1 - image])
        assert np.linalg.norm(out[frame] - expected) < STEP * SPECTRAL_NORM * np.linalg.norm(z[frame])


def test_admm_l1_of_a_volume_reaches_the_solution(make_system_matrix) -> None:
    """min ||x||_1, x >= 0, ||A x - y|| <= epsilon in 3-D, checked by its optimality conditions."""
    grid = Grid((4, 3, 3), (0.008, 0.006, 0.006))
    matrix = make_system_matrix(grid, 60, (6, 12), 5)
    rng = np.random.default_rng(5)
    u, _ = np.linalg.qr(rng.standard_normal((120, 36)))
    v, _ = np.linalg.qr(rng.standard_normal((36, 36)))
    well_posed = u * np.geomspace(100, 4, 36) @ v.T
    matrix = replace(matrix, rows=well_posed[:60] + 1j * well_posed[60:])
    operators = make_factored_operators(matrix, 36)
    image = np.zeros(36)
    image[[4, 17, 30]] = (1.0, 0.6, 0.8)
    rows = well_posed @ image
    rows += 0.02 * np.linalg.norm(rows) / np.sqrt(120) * rng.standard_normal(120)
    measurement = normalize(rows, operators)
    (solution,) = AdmmL1(operators, constants(3000, l1=0.1), tolerance=1e-7).solve([measurement])
    x = solution.value.astype(np.float64)
    a = operators.left_singular.T.astype(np.float64) * operators.singular_values @ operators.right_singular.T
    misfit = a @ x - measurement.y
    assert np.linalg.norm(misfit) == pytest.approx(measurement.epsilon, rel=1e-3)
    # 1 + mu A^T (A x - y) is zero where x > 0 and not negative elsewhere, for one mu > 0.
    gradient = a.T @ misfit
    inside = x > 1e-3
    assert 0 < inside.sum() < 36
    mu = -1 / gradient[inside].mean()
    np.testing.assert_allclose(1 + mu * gradient[inside], 0, atol=1e-2)
    assert np.all(1 + mu * gradient[~inside] > -1e-2)
