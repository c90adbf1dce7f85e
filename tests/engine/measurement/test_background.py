"""The running background against its definition and against known noise and drift."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.measurement.background import RunningBackground
from engine.measurement.raw_frame import RawFrame

ROUNDING = 1e-12
"""Relative, of means of some tens of doubles."""

SCATTER = 0.02
"""Relative, of a noise level from 400 frames of 100 components: its standard deviation is 0.35 percent."""


def spectra_of(values):
    return [np.asarray(value, np.complex128).reshape(1, 1, -1) for value in values]


def updated(window, values):
    background = RunningBackground(window)
    for number, spectra in enumerate(spectra_of(values)):
        background.update(RawFrame(number, spectra, is_background=True), spectra)
    return background


@given(
    window=st.integers(1, 6),
    values=st.lists(st.complex_numbers(max_magnitude=1e3), min_size=1, max_size=20),
)
@settings(max_examples=100, deadline=None)
def test_mean_is_that_of_all_frames_and_then_forgets(window, values):
    background = updated(window, values)
    expected = np.mean(values[:window])
    for value in values[window:]:
        expected = (1 - 1 / window) * expected + value / window
    np.testing.assert_allclose(background.mean[0, 0, 0], expected, rtol=ROUNDING, atol=1e3 * ROUNDING)
    assert background.n_frames == len(values)
    first = np.mean(values[:window])
    np.testing.assert_allclose(
        background.change[0, 0, 0], expected - first, rtol=ROUNDING, atol=1e3 * ROUNDING
    )


@pytest.mark.parametrize("drift", [0.0, 0.01])
def test_variance_is_that_of_the_noise_whatever_the_drift(drift):
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((2, 400, 100)) * 3.0
    values = noise[0] + 1j * noise[1] + drift * np.arange(400)[:, None]
    variance = updated(400, values).variance
    assert np.sqrt(variance.mean()) == pytest.approx(3.0, rel=SCATTER)


def test_another_layout_starts_anew():
    background = updated(4, [[1, 1], [3, 3]])
    wider = np.full((1, 1, 3), 5 + 0j)
    background.update(RawFrame(9, wider), wider)
    assert background.n_frames == 1
    np.testing.assert_array_equal(background.mean, wider)


def test_a_frame_fits_only_its_own_layout():
    background = updated(4, [[1, 1]])
    assert background.fits(RawFrame(5, np.zeros((1, 1, 2), np.complex64)))
    assert not background.fits(RawFrame(5, np.zeros((1, 1, 2), np.float32)))
    assert not background.fits(RawFrame(5, np.zeros((1, 1, 2), np.complex64), bins=np.array([3, 4])))
    assert not RunningBackground(4).fits(RawFrame(0, np.zeros((1, 1, 2), np.complex64)))


def test_an_infinite_window_forgets_nothing() -> None:
    values = np.random.default_rng(2).standard_normal((7, 3))
    np.testing.assert_allclose(
        updated(math.inf, values).mean[0, 0], values.mean(axis=0), rtol=0, atol=ROUNDING
    )
