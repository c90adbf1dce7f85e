"""The deep image prior: what it minimises, that frames stay apart, and what it leaves on the way."""

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import trainer.deep_image_prior
from engine.errors import ConfigError, InputError, NonFiniteError
from engine.fixed_point.solution import Result
from engine.measurement.normalization import NormalizedMeasurement, normalize
from engine.mpi.grid import Grid
from engine.mpi.metrics import psnr_db
from trainer.data.problem import TrainingScan
from trainer.deep_image_prior import DipConfig, deep_image_prior, fit_deep_image_prior

SMALL = DipConfig(iterations=40, learning_rate=1e-2, features=8)

SINGLE = 1e-4
"""Relative; residuals of float32 data over a few thousand terms, against float64."""

FRAMES_APART = 1e-3
"""Of the peak: grouped and single convolutions round differently, which 40 steps of Adam amplify."""

FITTED = 0.01
"""Relative misfit without noise after the fit; it begins at about 0.6."""


def measure(
    scan: TrainingScan, images: NDArray[np.float32], noise: float, seed: int = 0
) -> list[NormalizedMeasurement]:
    """Normalised measurements of images, with white noise of a share of the data's rms."""
    rng = np.random.default_rng(seed)
    clean = images.reshape(len(images), -1) @ scan.data_matrix.T.astype(np.float64)
    rows = clean + noise * np.sqrt(np.mean(clean**2)) * rng.standard_normal(clean.shape)
    return [normalize(row * scan.operators.scale, scan.operators) for row in rows]


@pytest.fixture(scope="module")
def noisy(well_posed, images) -> list[NormalizedMeasurement]:
    """Three frames on the 5 x 4 grid, of different brightness."""
    truth = images[:3, :4, :5] * np.array([0.5, 1.0, 3.0], np.float32)[:, None, None]
    return measure(well_posed, truth, noise=0.1)


def test_a_noise_free_measurement_is_fitted_and_its_image_found(well_posed, images) -> None:
    truth = images[:2, :4, :5]
    measurements = measure(well_posed, truth, noise=0.0)
    config = DipConfig(iterations=100, learning_rate=1e-2, features=16)
    solutions = deep_image_prior(well_posed.operators, measurements, config)
    for solution, measurement, image in zip(solutions, measurements, truth, strict=True):
        assert solution.stats.residuals[0] > 0.3
        assert solution.stats.residuals[-1] < FITTED
        found = solution.value.reshape(4, 5) * measurement.intensity
        # All singular values lie within a factor of 3, so that a misfit of 0.01 is an error of 0.03 at most.
        assert psnr_db(found[None], image[None])[0] > 30


def test_residuals_are_those_of_the_whole_data(well_posed, noisy) -> None:
    solutions = deep_image_prior(well_posed.operators, noisy, SMALL)
    a = well_posed.operators.system_matrix.astype(np.float64)
    for solution, measurement in zip(solutions, noisy, strict=True):
        y = measurement.y.astype(np.float64)
        expected = np.linalg.norm(a @ solution.value - y) / np.linalg.norm(y)
        assert solution.stats.residuals[-1] == pytest.approx(expected, rel=SINGLE)


def test_the_gradient_of_the_compressed_misfit_is_that_of_the_data(well_posed, noisy) -> None:
    data = trainer.deep_image_prior._CompressedData.of(well_posed.operators, noisy)
    images = torch.rand(3, 20, generator=torch.Generator().manual_seed(1), requires_grad=True)
    (found,) = torch.autograd.grad(data.squared_misfit(images).sum(), images)
    a = well_posed.operators.system_matrix.astype(np.float64)
    for k, measurement in enumerate(noisy):
        exact = 2 * a.T @ (a @ images[k].detach().numpy() - measurement.y)
        np.testing.assert_allclose(found[k], exact, rtol=0, atol=SINGLE * np.abs(exact).max())


def test_solutions_are_images_after_the_iterations_asked_for(well_posed, noisy) -> None:
    for solution in deep_image_prior(well_posed.operators, noisy, SMALL):
        assert solution.value.shape == (20,)
        assert solution.value.dtype == np.float32
        assert solution.value.min() >= 0
        assert solution.result is Result.FIXED_ITERATIONS
        assert solution.stats.iterations == len(solution.stats.residuals) == SMALL.iterations


def test_equal_seeds_give_equal_images(well_posed, noisy) -> None:
    first = deep_image_prior(well_posed.operators, noisy, SMALL)
    torch.rand(5)  # the global generator must not matter
    again = deep_image_prior(well_posed.operators, noisy, SMALL)
    other = deep_image_prior(well_posed.operators, noisy, dataclasses.replace(SMALL, seed=1))
    for one, two, three in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one.value, two.value)
        assert np.abs(one.value - three.value).max() > 0.01


def test_a_frame_s_image_does_not_depend_on_its_batch(well_posed, noisy) -> None:
    together = deep_image_prior(well_posed.operators, noisy, SMALL)
    for k in (0, 2):
        (alone,) = deep_image_prior(well_posed.operators, [noisy[k]], SMALL)
        assert np.abs(alone.value - together[k].value).max() < FRAMES_APART * alone.value.max()
    swapped = deep_image_prior(well_posed.operators, noisy[::-1], SMALL)
    assert np.abs(swapped[0].value - together[2].value).max() < FRAMES_APART * together[2].value.max()
    assert np.abs(swapped[0].value - together[0].value).max() > 0.01


def test_snapshots_are_the_images_of_shorter_fits(well_posed, noisy) -> None:
    stops = list(fit_deep_image_prior(well_posed.operators, noisy, SMALL, [30, 1, 7]))
    assert [stop.iterations for stop in stops] == [1, 7, 30]
    shorter = deep_image_prior(well_posed.operators, noisy, dataclasses.replace(SMALL, iterations=7))
    np.testing.assert_array_equal(stops[1].images, [solution.value for solution in shorter])
    np.testing.assert_array_equal(stops[1].residuals, stops[2].residuals[:, :7])
    assert stops[0].residuals.shape == (3, 1)
    assert np.abs(stops[0].images - stops[2].images).max() > 0.01


def test_the_caller_may_do_anything_between_snapshots(well_posed, noisy) -> None:
    expected = list(fit_deep_image_prior(well_posed.operators, noisy, SMALL, [3, 6]))
    found = []
    with torch.no_grad():
        for stop in fit_deep_image_prior(well_posed.operators, noisy, SMALL, [3, 6]):
            found.append(stop.images.copy())
            stop.images[:] = np.nan
    np.testing.assert_array_equal(found, [stop.images for stop in expected])


@pytest.mark.parametrize("size", [(2, 2), (3, 2), (2, 9), (7, 5), (26, 13)])
def test_generators_make_images_of_any_shape(size: tuple[int, int]) -> None:
    width, height = size
    generators = trainer.deep_image_prior._Generators(3, (height, width), 4, 0)
    images = generators()
    assert images.shape == (3, width * height)
    torch.testing.assert_close(images[0], images[2])  # the same start for every frame
    assert images.std() > 0


@pytest.mark.parametrize("stops", [[], [0, 3], [41]])
def test_snapshots_out_of_range_are_refused(well_posed, noisy, stops: list[int]) -> None:
    with pytest.raises(InputError, match="1 and 40"):
        next(fit_deep_image_prior(well_posed.operators, noisy, SMALL, stops))


def test_a_grid_that_is_no_plane_is_refused(well_posed, noisy) -> None:
    thick = dataclasses.replace(well_posed.operators, grid=Grid((5, 2, 2), (0.01, 0.004, 0.004)))
    with pytest.raises(InputError, match="5 x 2 x 2"):
        deep_image_prior(thick, noisy, SMALL)


def test_a_fit_that_blows_up_is_an_error(well_posed, noisy) -> None:
    broken = dataclasses.replace(noisy[1], explained=noisy[1].explained * np.float32(np.inf))
    with pytest.raises(NonFiniteError, match=r"1 of 3 images .*2 iterations"):
        deep_image_prior(
            well_posed.operators, [noisy[0], broken, noisy[2]], dataclasses.replace(SMALL, iterations=2)
        )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"iterations": 0}, "iterations is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"features": 0}, "features is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DipConfig(**values)
