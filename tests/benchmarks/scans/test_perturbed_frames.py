"""Perturbed frames: spectrum, distribution and power of the noise, concentration, told noise level."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from scipy import stats

from benchmarks.harness.quality import reconstruct
from benchmarks.scans.perturbations import GROUPS, Trial
from benchmarks.scans.perturbed_frames import (
    DEGREES_OF_FREEDOM,
    IMPULSE_FACTOR,
    IMPULSE_SHARE,
    Factor,
    falling_with_frequency,
    heavy_tails,
    impulses,
    noise_free_rows,
    row_frequencies,
    with_concentration,
    with_noise_factor,
)
from benchmarks.scans.scans import frames_of_test_split, reference_scan
from benchmarks.scans.unlike_phantoms import BAR_GROUPS, BAR_LENGTH, DISCS, POINTS, UNLIKE_PHANTOMS
from engine.mpi.grid import Grid
from engine.mpi.simulation.scanner import PRESETS
from engine.reconstruction.methods import open_method
from engine.reconstruction.reconstructor import Reconstructor
from engine.tuning.emulation import Frames

FRAMES, SNR = 40, 20.0

GRID = PRESETS["reference-0.5"].grid
FINE = GRID.refined(8)

POWER = 0.02
"""Relative error of the mean power over 40 frames of some hundred rows; impulses have a large kurtosis."""

SLOPE = 0.03
"""Error of an exponent fitted to the powers of some hundred rows in 40 frames."""

QUANTILES = 0.05
"""Relative error of quantiles up to 99 % over 10^4 values."""

ROUNDING = 1e-9
"""Relative, of sums in double precision."""

LEVEL = 0.5
"""dB by which the level of some 1500 noise values may miss the true one (three standard errors)."""

AREA = 0.01
"""Relative error of areas drawn with 8 x 8 points in a voxel of a quarter millimetre."""


def noise_of(factor: Factor) -> tuple[NDArray[np.float64], Frames]:
    """Noise in units of its level, and the frames it was taken from."""
    scan = reference_scan(0.5)
    frames = frames_of_test_split(0.5, FRAMES, SNR)
    changed = with_noise_factor(scan, frames, factor)
    assert changed.truth is frames.truth
    assert changed.rows.shape == frames.rows.shape
    return (changed.rows - noise_free_rows(scan, frames)) / frames.noise_std, changed


@pytest.mark.usefixtures("small_world")
@pytest.mark.parametrize("factor", [falling_with_frequency, impulses, heavy_tails])
def test_the_power_of_the_noise_stays(factor: Factor) -> None:
    noise, changed = noise_of(factor)
    assert np.mean(noise**2) == pytest.approx(1.0, rel=3 * POWER)
    assert changed.snr_db.mean() == pytest.approx(SNR, abs=0.3)  # the power varies between frames


@pytest.mark.usefixtures("small_world")
def test_coloured_noise_falls_as_one_over_frequency() -> None:
    noise, _ = noise_of(falling_with_frequency)
    frequencies = row_frequencies(reference_scan(0.5).operators)
    slope = np.polyfit(np.log(frequencies), np.log(noise.std(axis=0)), 1)[0]
    assert slope == pytest.approx(-1.0, abs=SLOPE)


@pytest.mark.usefixtures("small_world")
def test_rows_have_the_frequencies_of_their_harmonics() -> None:
    frequencies = row_frequencies(reference_scan(0.5).operators)
    assert len(frequencies) == reference_scan(0.5).operators.n_rows
    harmonics = np.rint(frequencies / 26e3)
    assert set(harmonics) <= {2.0, 3.0, 4.0, 5.0}
    assert np.abs(frequencies - 26e3 * harmonics).max() == pytest.approx(600.0)  # 13 bins of 100 Hz
    assert_allclose(frequencies[: len(frequencies) // 2], frequencies[len(frequencies) // 2 :])


@pytest.mark.usefixtures("small_world")
def test_impulses_are_a_mixture_of_two_gaussians() -> None:
    noise, _ = noise_of(impulses)
    low = 1 / np.sqrt(1 + IMPULSE_SHARE * (IMPULSE_FACTOR**2 - 1))
    for limit in (1.0, 3.0):
        rare = IMPULSE_SHARE * 2 * stats.norm.sf(limit / (IMPULSE_FACTOR * low))
        beyond = (1 - IMPULSE_SHARE) * 2 * stats.norm.sf(limit / low) + rare
        assert np.mean(np.abs(noise) > limit) == pytest.approx(beyond, rel=0.1)  # some 1000 of the values
    assert np.mean(np.abs(noise) > 3) > 3 * 2 * stats.norm.sf(3)


@pytest.mark.usefixtures("small_world")
def test_heavy_tails_are_those_of_student() -> None:
    noise, _ = noise_of(heavy_tails)
    shares = np.array([0.75, 0.9, 0.97, 0.99])
    # Frames are scaled to one power each; shape is compared after taking out the scale.
    found = np.quantile(noise, shares) / np.quantile(noise, 0.8)
    student = stats.t(DEGREES_OF_FREEDOM)
    assert_allclose(found, student.ppf(shares) / student.ppf(0.8), rtol=2 * QUANTILES)
    assert found[-1] > 1.2 * stats.norm.ppf(0.99) / stats.norm.ppf(0.8)


@pytest.mark.usefixtures("small_world")
def test_another_concentration_leaves_the_noise() -> None:
    scan, frames = reference_scan(0.5), frames_of_test_split(0.5, 3, SNR)
    changed = with_concentration(scan, frames, 0.1)
    assert_allclose(changed.truth, 0.1 * frames.truth, rtol=1e-6)
    weak = 0.1 * noise_free_rows(scan, frames)
    noise = frames.rows - noise_free_rows(scan, frames)
    assert_allclose(changed.rows - weak, noise, atol=ROUNDING * np.abs(frames.rows).max())
    assert_allclose(changed.snr_db, frames.snr_db - 20, atol=ROUNDING)


def trial_of(name: str) -> Trial:
    by_name = {perturbation.name: perturbation for group in GROUPS for perturbation in group.perturbations}
    return by_name[name].make(2, SNR)


@pytest.mark.usefixtures("small_world")
@pytest.mark.parametrize(("name", "error"), [("told -20 dB", -20.0), ("told +10 dB", 10.0)])
def test_the_told_level_is_wrong_by_what_it_says(name: str, error: float) -> None:
    trial = trial_of(name)
    noise = trial.frames.rows - noise_free_rows(reference_scan(0.5), trial.frames)
    true = noise.std() * trial.operators.scale
    assert trial.sigma is not None
    assert 20 * np.log10(trial.sigma / true) == pytest.approx(error, abs=LEVEL)
    solver = Reconstructor(open_method("least-squares", trial.operators))
    _, done = reconstruct(solver, trial.frames.rows, trial.sigma)
    assert [frame.report.sigma for frame in done] == [trial.sigma] * len(trial.frames.rows)


def area(image: NDArray[np.floating], grid: Grid) -> float:
    return float(image.sum() * grid.pitch[0] * grid.pitch[1])


def test_unlike_phantoms_have_their_areas() -> None:
    drawn = {name: area(draw(FINE), FINE) for name, draw in UNLIKE_PHANTOMS.items()}
    assert drawn["discs"] == pytest.approx(np.pi * sum(radius**2 for *_, radius in DISCS), rel=AREA)
    bars = BAR_LENGTH * sum(width * count for width, count in BAR_GROUPS)
    assert drawn["bars"] == pytest.approx(bars, rel=AREA)
    pixels = UNLIKE_PHANTOMS["points"](GRID)
    assert sorted(np.unique(pixels)) == [0, 1]
    assert pixels.sum() == len(POINTS)


@pytest.mark.parametrize("name", UNLIKE_PHANTOMS)
def test_unlike_phantoms_fit_into_the_field_of_view(name: str) -> None:
    image = UNLIKE_PHANTOMS[name](GRID)
    assert image.shape == GRID.volume_shape[1:]
    assert image.dtype == np.float32
    assert image.min() == 0
    assert image.max() == pytest.approx(1.0)
    if name != "points":
        assert area(image, GRID) == pytest.approx(area(UNLIKE_PHANTOMS[name](FINE), FINE), rel=AREA)
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    assert not edge.any()
