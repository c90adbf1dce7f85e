"""What images say of the background that was subtracted, against known noise and drift."""

import numpy as np
import pytest

from engine.live.loop.frame_to_image import FrameToImage
from engine.live.loop.loop_config import LoopConfig
from engine.measurement.background import RunningBackground


def test_state_is_in_units_of_the_calibration(scan, reconstructor, raw):
    maker = FrameToImage(reconstructor, LoopConfig(background_frames=60))
    background = RunningBackground(60)
    rng = np.random.default_rng(2)
    step = 3 * scan.noise * (1 + 1j)  # 3 sigma in each component
    for number in range(180):
        data = scan.frames(np.zeros((1, 20)), rng)[0] + (number >= 60) * step
        background.update(raw(number), data)
    state = maker.background_state(background, raw(0), 2.5)
    assert (state.n_frames, state.age_s) == (180, 2.5)
    # The calibration's own noise comes from 12 frames: 15 percent per row, so 1.03 in the mean square.
    assert state.sigma == pytest.approx(1.0, rel=0.1)
    # Of the step of 3, all but (59/60)^120 = 13 percent is in the mean by now.
    assert state.drift == pytest.approx(3 * (1 - (59 / 60) ** 120), rel=0.1)
    assert maker.background_state(background, raw(0, data=np.zeros((3, 2, 200))), None).sigma is None
