import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from engine.errors import InputError
from engine.mpi.metrics import psnr_db, snr_db, ssim_global, ssim_windowed

# float64 sums over a few hundred values of order one, in another order than the oracle's.
ROUNDING = 1e-10


@pytest.fixture
def images():
    """Two batches of images, shape (3, 2, 13, 26), with different peaks per image."""
    rng = np.random.default_rng(7)
    truth = rng.random((3, 2, 13, 26)) * rng.uniform(0.5, 1.5, (3, 2, 1, 1))
    return truth + 0.1 * rng.standard_normal(truth.shape), truth


def test_snr_of_an_error_ten_times_smaller_is_20_db():
    clean = np.array([[3.0, 4.0], [1j, 0.0]])
    noise = np.array([[0.3, 0.4], [0.1, 0.0]])
    np.testing.assert_allclose(snr_db(clean, clean + noise), [20.0, 20.0], rtol=ROUNDING)


def test_snr_sees_the_imaginary_part():
    assert snr_db(np.array([1.0 + 0j]), np.array([1.0 + 1j])) == pytest.approx(0.0, abs=ROUNDING)


@given(st.floats(-40, 80), st.integers(0, 2**32 - 1))
def test_snr_gives_back_the_level_at_which_noise_was_scaled(level, seed):
    rng = np.random.default_rng(seed)
    clean, noise = rng.standard_normal((2, 50))
    noise *= np.linalg.norm(clean) / np.linalg.norm(noise) * 10 ** (-level / 20)
    # clean + noise loses digits of the noise: relative error of about 1e-16 * 10^(80/20).
    assert snr_db(clean, clean + noise) == pytest.approx(level, abs=1e-9)


def test_psnr_matches_scikit_image_with_each_peak_as_range(images):
    image, truth = images
    expected = [
        [peak_signal_noise_ratio(t, x, data_range=t.max()) for x, t in zip(xs, ts, strict=True)]
        for xs, ts in zip(image, truth, strict=True)
    ]
    np.testing.assert_allclose(psnr_db(image, truth), expected, rtol=ROUNDING)


def test_psnr_peak_is_the_largest_magnitude():
    # Eq. (37) takes the infinity norm; a plain maximum would see a peak of 0 here.
    truth = np.array([[-2.0, 0.0], [0.0, 0.0]])
    assert psnr_db(truth + 0.2, truth) == pytest.approx(20.0, abs=ROUNDING)


def test_exact_images_have_infinite_psnr_and_ssim_one(images):
    _, truth = images
    assert np.all(np.isposinf(psnr_db(truth, truth)))
    np.testing.assert_allclose(ssim_global(truth, truth), 1.0, rtol=ROUNDING)
    np.testing.assert_allclose(ssim_windowed(truth, truth), 1.0, rtol=ROUNDING)


def test_windowed_ssim_matches_scikit_image(images):
    image, truth = images
    expected = [
        [structural_similarity(t, x, data_range=t.max()) for x, t in zip(xs, ts, strict=True)]
        for xs, ts in zip(image, truth, strict=True)
    ]
    np.testing.assert_allclose(ssim_windowed(image, truth), expected, rtol=ROUNDING)


def test_global_ssim_is_scikit_images_single_window(images):
    # On a 7 x 7 image the one window is the whole image, and with the population covariance scikit-image
    # evaluates Eq. (38).
    image, truth = (a[0, 0, :7, :7] for a in images)
    expected = structural_similarity(truth, image, data_range=2.0, use_sample_covariance=False)
    assert ssim_global(image, truth, data_range=2.0) == pytest.approx(expected, rel=ROUNDING)


def test_ssim_data_range_may_differ_per_image(images):
    image, truth = images
    ranges = np.arange(1.0, 7.0).reshape(3, 2)
    for similarity in (ssim_global, ssim_windowed):
        together = similarity(image, truth, ranges)
        assert together[2, 0] == pytest.approx(similarity(image[2, 0], truth[2, 0], 5.0), rel=ROUNDING)
        assert together[2, 0] != pytest.approx(similarity(image[2, 0], truth[2, 0], 1.0), rel=1e-3)


@given(st.floats(0.01, 100.0))
def test_image_metrics_do_not_depend_on_the_unit(factor):
    rng = np.random.default_rng(3)
    image, truth = rng.random((2, 13, 26))
    for metric in (psnr_db, ssim_global, ssim_windowed):
        assert metric(factor * image, factor * truth) == pytest.approx(metric(image, truth), rel=1e-8)


def test_float32_images_are_evaluated_in_double_precision():
    truth = np.full((13, 26), 1.0, np.float32)
    image = truth.copy()
    image[0, 0] += np.float32(2.0**-20)
    # Error of one pixel in 338: sqrt(338) / 2^-20.
    assert psnr_db(image, truth) == pytest.approx(20 * np.log10(np.sqrt(338) * 2**20), rel=ROUNDING)


@pytest.mark.parametrize("metric", [psnr_db, ssim_global, ssim_windowed])
def test_wrong_images_are_refused(metric):
    one = np.ones((13, 26))
    with pytest.raises(InputError, match="shape"):
        metric(one, np.ones((26, 13)))
    with pytest.raises(InputError, match="shape"):
        metric(np.ones(26), np.ones(26))
    with pytest.raises(InputError, match="zero"):
        metric(one, 0 * one)


def test_other_impossible_requests_are_refused():
    with pytest.raises(InputError, match="undefined"):
        snr_db(np.zeros(3), np.ones(3))
    with pytest.raises(InputError, match="ssim_global"):
        ssim_windowed(np.ones((6, 26)), np.ones((6, 26)))
    with pytest.raises(InputError, match="positive"):
        ssim_global(np.ones((7, 7)), np.ones((7, 7)), data_range=0.0)
