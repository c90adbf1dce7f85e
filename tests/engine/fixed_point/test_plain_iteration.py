"""Plain iteration of several frames on maps whose every iterate is known."""

import numpy as np
import pytest

from engine.errors import NonFiniteError
from engine.fixed_point.plain_iteration import iterate_plain

RATES = np.array([0.5, 0.9, 0.1], np.float32)
"""Each frame's distance from its fixed point shrinks by this factor per step."""

TARGETS = np.array([[1.0, 2.0], [-3.0, 1.0], [0.5, 0.25]], np.float32)


def contraction(z, out):
    out[...] = TARGETS + RATES[:, None] * (z - TARGETS)


def steps_until(rate, tolerance, target):
    """Steps from zero until the relative change is at most the tolerance, in closed form term by term."""
    step = 1
    # z_k = (1 - rate^k) target, so the change is (1 - rate) rate^(k-1) |target|.
    while (1 - rate) * rate ** (step - 1) / (1 - rate**step) > tolerance:
        step += 1
    return step


def test_every_frame_stops_at_its_own_tolerance() -> None:
    tolerance = 1.1e-3  # not met to within rounding at any step of the three
    states, residuals, steps = iterate_plain(contraction, np.zeros((3, 2), np.float32), 500, tolerance)
    expected = [steps_until(float(rate), tolerance, 1) for rate in RATES]
    assert steps.tolist() == expected
    assert len(set(expected)) == 3
    for frame, rate in enumerate(RATES.astype(np.float64)):
        np.testing.assert_allclose(states[frame], (1 - rate ** steps[frame]) * TARGETS[frame], rtol=1e-5)
        assert len(residuals[frame]) == steps[frame]
        powers = rate ** np.arange(1, steps[frame] + 1)
        changes = (1 - rate) * powers / rate / (1 - powers)
        # float32 iterates: a change of 1e-3 of the state is known to about 1e-4 of itself.
        np.testing.assert_allclose(residuals[frame], changes, rtol=1e-3)
        assert residuals[frame][-1] <= tolerance < min(residuals[frame][:-1])


def test_the_limit_ends_the_frames_that_are_left() -> None:
    states, residuals, steps = iterate_plain(contraction, np.zeros((3, 2), np.float32), 7, 1e-3)
    assert steps.tolist() == [7, 7, steps_until(0.1, 1e-3, 1)]
    assert residuals[1][-1] > 1e-3
    np.testing.assert_allclose(states[1], (1 - 0.9**7) * TARGETS[1], rtol=1e-5)


def test_zero_tolerance_takes_every_step() -> None:
    start = np.zeros((3, 2), np.float32)
    states, _, steps = iterate_plain(contraction, start, 5, 0.0)
    assert steps.tolist() == [5, 5, 5]
    np.testing.assert_allclose(states, (1 - RATES.astype(np.float64)[:, None] ** 5) * TARGETS, rtol=1e-5)
    assert not start.any()


def test_residual_is_relative_to_the_whole_state_of_the_frame() -> None:
    """A step from (0, 4) to (3, 4) is a change of 3 in a state of norm 5; a frame at rest has residual 0."""

    def step(z, out):
        out[...] = [[3.0, 4.0], [7.0, 0.0]]

    _, residuals, steps = iterate_plain(step, np.array([[0, 4], [7, 0]], np.float32), 1, 0.0)
    np.testing.assert_allclose(np.ravel(residuals), [0.6, 0.0], rtol=1e-12)
    assert steps.tolist() == [1, 1]


def test_a_frame_that_has_ended_cannot_fail() -> None:
    def step(z, out):
        out[...] = z
        out[1] += 1
        if z[1, 0] == 2:
            out[0] = np.inf

    states, _, steps = iterate_plain(step, np.ones((2, 2), np.float32), 4, 1e-6)
    assert steps.tolist() == [1, 4]
    np.testing.assert_array_equal(states, [[1, 1], [5, 5]])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_states_are_refused(bad) -> None:
    def step(z, out):
        out[...] = z + 1
        if z[0, 0] == 2:
            out[1, 0] = bad

    with pytest.raises(NonFiniteError, match="iteration 3"):
        iterate_plain(step, np.zeros((2, 2), np.float32), 5, 0.0)
