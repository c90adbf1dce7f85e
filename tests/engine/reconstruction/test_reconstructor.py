"""Whole reconstructions with exact projections in the place of the networks."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from engine.calibration.calibrate import make_operators
from engine.errors import InputError, NonFiniteError, PairingError
from engine.fixed_point.solution import Result
from engine.fixed_point.solve import FixedPointConfig
from engine.measurement.normalization import SIGMA_FLOOR, TIKHONOV_PEAK, normalize
from engine.mpi.grid import Grid
from engine.mpi.system_matrix import SystemMatrix
from engine.operators.operators import Operators
from engine.reconstruction.reconstructor import BATCH, Reconstructor
from engine.solvers.deq.equilibrium import Equilibrium
from engine.solvers.least_squares import LeastSquares

LONG = FixedPointConfig(tolerance=1e-4, max_iterations=200)
"""The default tolerance with room to reach it: exact projections take about 30 evaluations from rank 20."""

PLAIN = FixedPointConfig(memory=0, tolerance=1e-5, max_iterations=500)
"""Plain steps of ADMM converge for certain with projections, which are proximal maps."""

RECOVERY_TOLERANCE = 2e-3
"""Relative error without noise: epsilon is 1e-4 of the data and the condition number is about 4."""

TOGETHER_TOLERANCE = 1e-4
"""Relative: one product of many frames sums in another order than many products of one."""

SCALE_TOLERANCE = 1e-5
"""Relative: both runs differ by float32 rounding of the scaled rows only."""


def prior(v, _noise):
    return np.maximum(v, 0)


def consistency(v, y, mask, epsilon):
    """Eq. (10) on the dense layout."""
    difference = (v - y) * mask
    norms = np.sqrt(np.sum(difference**2, axis=(1, 2, 3), keepdims=True))
    return y + difference * np.minimum(1.0, epsilon / np.maximum(norms, 1e-12))


@pytest.fixture(scope="module")
def random_matrix(small_system_matrix: SystemMatrix) -> SystemMatrix:
    """Random rows instead of smooth ones: R = 120 on N = 35, condition number about 4."""
    rng = np.random.default_rng(21)
    rows = 300 * (rng.standard_normal((60, 35)) + 1j * rng.standard_normal((60, 35)))
    return replace(small_system_matrix, rows=rows)


@pytest.fixture(scope="module")
def operators(random_matrix: SystemMatrix) -> Operators:
    """Rank 20 of 35, so that the least-squares start is far from the answer."""
    return make_operators(random_matrix, rank=20)


@pytest.fixture(scope="module")
def reconstructor(operators: Operators) -> Reconstructor:
    return Reconstructor(Equilibrium(operators, prior, consistency, LONG))


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    """Concentrations with sharp zeros, far from 1 so that a lost scale shows."""
    image = np.zeros(35)
    image[8:13] = 7.0
    image[22:26] = [2.0, 5.0, 6.0, 1.0]
    return image


@pytest.fixture(scope="module")
def clean(random_matrix: SystemMatrix, truth: np.ndarray) -> np.ndarray:
    """Whitened rows of the truth in double precision, by the raw matrix and not by the operators."""
    return random_matrix.real_rows() @ truth


def relative_error(image, expected):
    return np.linalg.norm(image.reshape(-1) - expected) / np.linalg.norm(expected)


def test_truth_is_recovered_without_noise(reconstructor, operators, clean, truth) -> None:
    assert relative_error(Reconstructor(LeastSquares(operators)).reconstruct(clean).image, truth) > 0.1
    found = reconstructor.reconstruct(clean)
    assert found.image.shape == (1, 5, 7)
    assert found.image.dtype == np.float32
    assert found.report.result is Result.CONVERGED
    assert relative_error(found.image, truth) < RECOVERY_TOLERANCE
    assert found.report.residual_over_epsilon < 1.1


def test_least_squares_of_full_rank_recovers_the_truth(random_matrix, clean, truth) -> None:
    found = Reconstructor(LeastSquares(make_operators(random_matrix, rank=35))).reconstruct(clean)
    assert found.report.result is Result.DIRECT
    assert found.report.converged
    assert found.report.iterations == 0
    assert relative_error(found.image, truth) < RECOVERY_TOLERANCE


def test_least_squares_is_the_truncated_pseudo_inverse(random_matrix, clean) -> None:
    noisy = clean + np.random.default_rng(3).standard_normal(clean.size)
    found = Reconstructor(LeastSquares(make_operators(random_matrix, rank=20))).reconstruct(noisy)
    left, s, right = np.linalg.svd(random_matrix.real_rows(), full_matrices=False)
    expected = right[:20].T @ ((left.T @ noisy)[:20] / s[:20])
    # The damping of 1e-4 against normalised singular values above 5 changes 2e-5.
    assert relative_error(found.image, expected) < 1e-4
    assert found.image.min() < 0  # linear: nothing is clipped


def test_noise_is_kept_out_by_the_ball(operators, clean, truth) -> None:
    """The image is in both sets, non-negative and within epsilon of the data, and better than the start."""
    sigma = 0.05 * np.abs(clean).max()
    noisy = clean + sigma * np.random.default_rng(4).standard_normal(clean.size)
    found = Reconstructor(Equilibrium(operators, prior, consistency, PLAIN)).reconstruct(noisy)
    assert found.image.min() >= 0
    assert relative_error(found.image, truth) < relative_error(
        Reconstructor(LeastSquares(operators)).reconstruct(noisy).image, truth
    )
    assert found.report.converged
    assert found.report.residual_over_epsilon < 1 + 1e-3


@settings(max_examples=15, deadline=None)
@given(exponent=st.integers(-30, 30), seed=st.integers(0, 100))
def test_image_scales_with_the_measurement(operators, exponent, seed) -> None:
    rows = np.random.default_rng(seed).standard_normal(operators.n_rows) + 1.0
    factor = 10.0**exponent
    for method in (
        Reconstructor(Equilibrium(operators, prior, consistency)),
        Reconstructor(LeastSquares(operators)),
    ):
        once, scaled = method.reconstruct(rows), method.reconstruct(factor * rows)
        peak = factor * np.abs(once.image).max()
        np.testing.assert_allclose(scaled.image, factor * once.image, rtol=0, atol=SCALE_TOLERANCE * peak)
        assert scaled.report.intensity == pytest.approx(factor * once.report.intensity, rel=SCALE_TOLERANCE)
        assert scaled.report.sigma == pytest.approx(factor * once.report.sigma, rel=SCALE_TOLERANCE)
        assert scaled.report.iterations == once.report.iterations


def test_sigma_is_estimated_from_what_no_image_explains(reconstructor, clean) -> None:
    """Over 200 frames of 85 degrees of freedom the rms has a standard error of 0.54 %; 3 of them."""
    sigma = 3.0
    noise = np.random.default_rng(5).standard_normal((200, clean.size))
    estimates = [normalize(clean + sigma * n, reconstructor.operators).sigma for n in noise]
    assert np.mean(np.square(estimates)) ** 0.5 == pytest.approx(sigma, rel=0.016)


def test_sigma_matches_its_definition_in_double_precision(random_matrix, operators, clean) -> None:
    rows = clean + np.random.default_rng(6).standard_normal(clean.size)
    left = np.linalg.svd(random_matrix.real_rows(), full_matrices=False)[0]
    expected = np.sqrt((rows @ rows - np.sum((left.T @ rows) ** 2)) / (120 - 35))
    assert normalize(rows, operators).sigma == pytest.approx(expected, rel=1e-4)


def test_sigma_has_a_floor(operators, clean) -> None:
    found = normalize(clean, operators)
    assert found.sigma == pytest.approx(SIGMA_FLOOR * np.linalg.norm(clean) / np.sqrt(120), rel=1e-3)
    assert found.epsilon > 0


def test_given_sigma_sets_epsilon(operators, random_matrix, clean) -> None:
    found = normalize(clean, operators, sigma=2.5)
    assert found.sigma == 2.5
    whitened_epsilon = found.epsilon * operators.scale * found.intensity
    assert whitened_epsilon == pytest.approx(2.5 * np.sqrt(120), rel=1e-6)


def test_normalised_units(operators, random_matrix, clean) -> None:
    """y is whitened rows over scale and intensity; the intensity is the Tikhonov peak over its share."""
    found = normalize(clean, operators)
    np.testing.assert_allclose(
        found.y * operators.scale * found.intensity, clean, rtol=0, atol=1e-6 * np.abs(clean).max()
    )
    a = random_matrix.real_rows() / operators.scale
    tikhonov = np.linalg.solve(np.eye(35) + a.T @ a, a.T @ clean / operators.scale)
    assert found.intensity == pytest.approx(tikhonov.max() / TIKHONOV_PEAK, rel=1e-5)


def test_too_few_rows_ask_for_sigma(make_system_matrix) -> None:
    operators = make_operators(make_system_matrix(Grid((7, 5, 1), (0.014, 0.01, 0.002)), 30, (6, 12), 1))
    rows = np.ones(60)
    with pytest.raises(InputError, match=r"60 rows .*35 voxels.*sigma"):
        Reconstructor(Equilibrium(operators, prior, consistency)).reconstruct(rows)
    given_sigma = Reconstructor(Equilibrium(operators, prior, consistency)).reconstruct(rows, sigma=1.0)
    assert given_sigma.report.sigma == 1.0
    direct = Reconstructor(LeastSquares(operators)).reconstruct(rows)
    assert direct.report.sigma is None
    assert direct.report.residual_over_epsilon is None


@pytest.mark.parametrize("sigma", [0.0, -1.0, np.nan, np.inf])
def test_impossible_sigma(reconstructor, clean, sigma) -> None:
    with pytest.raises(InputError, match="sigma is"):
        reconstructor.reconstruct(clean, sigma=sigma)


@pytest.mark.parametrize("sigma", [1e-300, 1e300])
def test_sigma_beyond_single_precision(reconstructor, operators, clean, sigma) -> None:
    """The networks would see an epsilon of zero or infinity."""
    for method in (reconstructor, Reconstructor(LeastSquares(operators))):
        with pytest.raises(InputError, match="single precision"):
            method.reconstruct(clean, sigma=sigma)


def test_zero_measurement_gives_a_zero_image(reconstructor, operators) -> None:
    for method in (reconstructor, Reconstructor(LeastSquares(operators))):
        found = method.reconstruct(np.zeros(120, np.float32))
        assert found.report.result is Result.ZERO_MEASUREMENT
        assert found.report.converged
        assert found.image.shape == (1, 5, 7)
        assert not found.image.any()
        assert found.report.to_dict()["result"] == "zero_measurement"


def test_a_negative_image_still_sets_the_scale(random_matrix, operators) -> None:
    """No voxel has a positive peak; the intensity then comes from the size of the image."""
    rows = random_matrix.real_rows() @ np.ones(35)
    positive, negative = normalize(rows, operators), normalize(-rows, operators)
    assert 0 < negative.intensity < 1.5 * positive.intensity
    found = Reconstructor(Equilibrium(operators, prior, consistency)).reconstruct(-rows)
    assert np.isfinite(found.image).all()
    assert found.image.min() >= 0


def test_the_image_is_clipped(operators, clean) -> None:
    """With a prior that does not clip, the least-squares solution is negative and the image zero there."""
    negative = Reconstructor(LeastSquares(operators)).reconstruct(-clean).image
    found = Reconstructor(Equilibrium(operators, lambda v, _noise: v, consistency)).reconstruct(-clean)
    assert negative.min() < -0.1
    assert found.image.min() == 0
    expected = found.report.intensity * found.solution.value
    np.testing.assert_allclose(found.image.reshape(-1), expected, rtol=1e-6)


def test_frames_do_not_influence_each_other(operators, clean) -> None:
    short = FixedPointConfig(tolerance=0.0, max_iterations=10)  # rounding grows from step to step
    reconstructor = Reconstructor(Equilibrium(operators, prior, consistency, short))
    rng = np.random.default_rng(8)
    frames = np.stack([clean, np.zeros(120), 40 * rng.standard_normal(120), 1e-3 * clean])
    together = reconstructor.reconstruct_frames(frames)
    for index in (3, 0, 2, 1):
        alone = reconstructor.reconstruct(frames[index])
        atol = TOGETHER_TOLERANCE * np.abs(alone.image).max()
        np.testing.assert_allclose(together[index].image, alone.image, rtol=0, atol=atol)
        assert abs(together[index].report.iterations - alone.report.iterations) <= 1  # rounding at the end


def test_images_given_back_stay_as_they_are(reconstructor, clean) -> None:
    first = reconstructor.reconstruct(clean)
    image, value = first.image.copy(), first.solution.value.copy()
    reconstructor.reconstruct(np.random.default_rng(9).standard_normal(120))
    np.testing.assert_array_equal(first.image, image)
    np.testing.assert_array_equal(first.solution.value, value)


def test_solver_settings_reach_the_solver(operators, clean) -> None:
    """A prior that shrinks makes the map contract, and Anderson must then need fewer evaluations."""
    iterations = {}
    for memory in (0, 5):
        config = FixedPointConfig(memory=memory, tolerance=1e-4, max_iterations=500)
        report = (
            Reconstructor(Equilibrium(operators, lambda v, _noise: 0.5 * v, consistency, config))
            .reconstruct(clean)
            .report
        )
        assert report.converged
        iterations[memory] = report.iterations
    assert iterations[5] < 0.7 * iterations[0]


def test_iteration_limit_is_reported(operators, clean) -> None:
    found = Reconstructor(
        Equilibrium(operators, prior, consistency, FixedPointConfig(max_iterations=2))
    ).reconstruct(clean)
    assert found.report.result is Result.MAX_ITERATIONS
    assert not found.report.converged
    assert found.report.to_dict()["converged"] is False
    assert np.isfinite(found.image).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(reconstructor, clean, bad) -> None:
    rows = clean.copy()
    rows[17] = bad
    with pytest.raises(InputError, match="1 of 120"):
        reconstructor.reconstruct(rows)


def test_complex_rows_are_refused(reconstructor) -> None:
    with pytest.raises(InputError, match="real-stacked"):
        reconstructor.reconstruct(np.ones(120, np.complex64))


@pytest.mark.parametrize("shape", [(119,), (60,), (120, 1), ()])
def test_wrong_number_of_rows_is_refused(reconstructor, shape) -> None:
    with pytest.raises(PairingError, match=r"expected \(120,\)"):
        reconstructor.reconstruct(np.ones(shape))
    with pytest.raises(PairingError, match=r"expected \(F, 120\)"):
        reconstructor.reconstruct_frames(np.ones(shape))


def test_networks_that_fail_raise(operators, clean) -> None:
    broken = Reconstructor(Equilibrium(operators, lambda v, _noise: v + np.nan, consistency))
    with pytest.raises(NonFiniteError):
        broken.reconstruct(clean)


def test_an_image_beyond_single_precision_raises(operators, clean) -> None:
    with pytest.raises(NonFiniteError, match="intensity"):
        Reconstructor(LeastSquares(operators)).reconstruct(1e200 * clean)


def test_frames_use_one_blas_thread_and_give_the_rest_back(operators, clean) -> None:
    def blas_threads() -> set[int]:
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    seen = []

    def watching_prior(v, _noise):
        seen.append(blas_threads())
        return prior(v, _noise)

    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        Reconstructor(Equilibrium(operators, watching_prior, consistency)).reconstruct(clean)
        assert blas_threads() == before
    assert seen
    assert all(threads == {1} for threads in seen)


def test_more_frames_than_a_batch(operators, clean) -> None:
    """The last batch is smaller than those before."""
    short = FixedPointConfig(tolerance=0.0, max_iterations=3)
    reconstructor = Reconstructor(Equilibrium(operators, prior, consistency, short))
    gains = np.geomspace(0.1, 10, BATCH + 3)
    found = reconstructor.reconstruct_frames(gains[:, None] * clean)
    one = reconstructor.reconstruct(clean).image
    for gain, frame in zip(gains, found, strict=True):
        atol = TOGETHER_TOLERANCE * np.abs(gain * one).max()
        np.testing.assert_allclose(frame.image, gain * one, rtol=0, atol=atol)
