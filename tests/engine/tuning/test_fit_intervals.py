"""Fitted intervals hold the coverage stated on data that they were not fitted to."""

from functools import partial

import numpy as np
import pytest
from scipy.stats import norm

from engine.errors import InputError
from engine.tuning.fit_intervals import (
    CalibrationPlan,
    Residuals,
    conformal_scale,
    fewest_frames,
    fit_intervals,
    half_widths,
)

COVERAGE = 0.9

MANY = 200_000

QUANTILE_TOLERANCE = 0.02
"""Of a 5 % quantile of 200 000 values of unit scale: four standard errors."""

SCALE_CHANGE = 0.3
"""Relative: both tables take the quantiles of all pixels, but scale them by errors over other half-widths."""

ROUNDING = 1e-9

COVERAGE_TOLERANCE = 0.02
"""What is asked of the coverage; its standard error over the test's frames is below a third of it."""

SHAPE = (8, 10)

LEVELS = (5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0)


def test_normal_errors_get_the_normal_quantiles_on_both_sides() -> None:
    errors = np.random.default_rng(0).normal(0.3, 1.0, MANY)
    below, above = half_widths(errors, COVERAGE)
    expected = norm.ppf([0.05, 0.95], 0.3, 1.0)
    np.testing.assert_allclose([-below, above], expected, atol=QUANTILE_TOLERANCE)


@pytest.mark.parametrize("side", [1, -1])
def test_a_side_without_errors_leaves_all_misses_to_the_other(side: int) -> None:
    errors = np.random.default_rng(1).exponential(1.0, MANY)
    widths = half_widths(side * errors, COVERAGE)
    assert widths[0 if side > 0 else 1] == 0
    np.testing.assert_allclose(max(widths), np.log(10), atol=QUANTILE_TOLERANCE)


def test_concentrations_of_zero_leave_all_misses_to_the_upper_side() -> None:
    """A tenth of the truth is exactly 0, so the lower bound 0 misses nothing."""
    image, truth = 0.5, np.maximum(np.random.default_rng(2).uniform(-0.1, 0.9, MANY), 0)
    below, above = half_widths(truth - image, COVERAGE)
    assert below == 0.5
    np.testing.assert_allclose(image + above, 0.8, atol=QUANTILE_TOLERANCE)


def test_images_without_error_have_intervals_of_no_width() -> None:
    assert half_widths(np.zeros(50), COVERAGE) == (0.0, 0.0)


def test_correction_counts_frames_and_with_the_fewest_takes_the_largest_score() -> None:
    scores = np.random.default_rng(2).exponential(size=10_000)
    assert fewest_frames(0.9) == 9  # a tenth of the weight lies at infinity, all that may be missed
    assert fewest_frames(0.8) == 4
    assert conformal_scale(scores, 9, 0.9) == scores.max()
    # With 19 frames, 2/20 - 1/20 of a weight of 19/20 may be missed: 1/19 of the pixels.
    assert np.sum(scores > conformal_scale(scores, 19, 0.9)) == int(10_000 / 19)


def test_a_class_that_no_factor_can_cover_keeps_its_half_widths() -> None:
    assert conformal_scale(np.full(100, np.inf), 20, COVERAGE) == 1.0


def test_mean_coverage_holds_with_few_frames_of_dependent_pixels() -> None:
    """12 frames, whose pixels share most of their variance: an uncorrected quantile covers less than 90 %."""
    rng = np.random.default_rng(3)

    def coverage(n_frames: int, counted: int) -> float:
        shared, own = 2 * rng.normal(size=(n_frames, 1)), rng.normal(size=(n_frames, 30))
        scale = conformal_scale(np.abs(shared + own).ravel(), counted, COVERAGE)
        return float(1 - 2 * norm.sf(scale, scale=np.sqrt(5)))

    corrected = [coverage(12, 12) for _ in range(600)]
    uncorrected = [coverage(12, 12 * 30) for _ in range(600)]  # as if pixels were independent
    error = np.std(corrected) / np.sqrt(len(corrected))
    assert COVERAGE - 2 * error < np.mean(corrected) < COVERAGE + 1 / 12
    assert np.mean(uncorrected) < COVERAGE - 2 * error


def frames_of(count: int, seed: int) -> Residuals:
    """Images of a dark left and a bright right half; errors grow with brightness and with noise."""
    rng = np.random.default_rng(seed)
    images = np.broadcast_to(np.where(np.arange(SHAPE[1]) < 5, 0.02, 0.7), (count, *SHAPE)).astype(np.float32)
    snr = rng.uniform(5, 35, count)
    scale = (0.01 + 0.3 * images) * 10 ** (-(snr[:, None, None] - 20) / 40)
    truth = np.maximum(images + scale * rng.standard_normal(images.shape), 0)
    return Residuals(images, truth.astype(np.float32), snr)


@pytest.fixture(scope="module")
def fitted():
    return fit_intervals(frames_of(1400, 4), COVERAGE, LEVELS)


def coverage_by(table, residuals, chosen) -> float:
    inside = []
    for image, truth, snr in zip(residuals.images, residuals.truth, residuals.snr_db, strict=True):
        interval = table.of_image(image[None], snr, 1.0)
        inside.append(((interval.low[0] <= truth) & (truth <= interval.high[0]))[:, chosen])
    assert inside
    return float(np.mean(inside))


@pytest.mark.parametrize("columns", [slice(0, 4), slice(5, 10), slice(0, 10)], ids=["dark", "bright", "all"])
@pytest.mark.parametrize("levels", [(5, 10), (12, 28), (30, 35)])
def test_coverage_holds_in_the_dark_and_in_the_bright_at_every_snr(fitted, columns, levels) -> None:
    fresh = frames_of(1200, 5)
    chosen = (fresh.snr_db >= levels[0]) & (fresh.snr_db < levels[1])
    some = Residuals(fresh.images[chosen], fresh.truth[chosen], fresh.snr_db[chosen])
    assert abs(coverage_by(fitted, some, columns) - COVERAGE) < COVERAGE_TOLERANCE


def test_without_classes_the_dark_pays_for_the_bright() -> None:
    table = fit_intervals(frames_of(1400, 4), COVERAGE, LEVELS, (), ())
    fresh = frames_of(300, 6)
    assert coverage_by(table, fresh, slice(5, 10)) < COVERAGE - 3 * COVERAGE_TOLERANCE
    assert coverage_by(table, fresh, slice(0, 4)) > COVERAGE + 3 * COVERAGE_TOLERANCE


def test_a_class_that_no_frame_shows_takes_what_a_wider_one_has() -> None:
    frames = frames_of(200, 7)
    fit = partial(fit_intervals, frames, COVERAGE, (20.0,))
    table, by_peak, single = fit((0.1, 0.9), (0.5,)), fit((0.1, 0.9), ()), fit((), ())
    assert table.above.shape == (1, 3, 2)
    for name in ("below", "above"):
        found, dark, everything = (getattr(one, name) for one in (table, by_peak, single))
        # A dark peak with a small share of it does not occur: the half-widths of all dark pixels.
        np.testing.assert_allclose(found[0, 0], dark[0, 0].repeat(2), rtol=ROUNDING)
        # A local peak above 0.9 does not occur: those of all pixels.
        np.testing.assert_allclose(found[0, 2], everything[0, 0].repeat(2), rtol=SCALE_CHANGE)


def test_range_of_the_frames_is_kept(fitted) -> None:
    snr = frames_of(1400, 4).snr_db
    assert fitted.snr_range == (snr.min(), snr.max())
    assert fitted.coverage == COVERAGE
    for level, place in zip(LEVELS, fitted.snr_db, strict=True):
        assert place == pytest.approx(snr[np.abs(snr - level) < 2.5].mean())


def test_a_level_without_frames_is_an_error() -> None:
    with pytest.raises(InputError, match=r"0 frames .*60 dB; .*9"):
        fit_intervals(frames_of(100, 8), COVERAGE, (20.0, 60.0))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"coverage": 1.0}, "coverage is 1.0"),
        ({"coverage": 0.95, "frames": 18}, "18 frames .*19 .*0.95"),
        ({"snr_db": (20.0, 10.0)}, "increasing"),
        ({"snr_db": ()}, "increasing"),
    ],
)
def test_an_impossible_plan_is_refused(changes, text) -> None:
    with pytest.raises(InputError, match=text):
        CalibrationPlan(**changes)
