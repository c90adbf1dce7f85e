"""The live loop: images in order, exact accounts, and no fault that ends it."""

import logging
import threading
from dataclasses import replace

import numpy as np
import pytest

from engine.errors import LiveError
from engine.live.loop.counters import DropReason
from engine.live.loop.live_image import Flag
from engine.live.loop.live_reconstructor import LiveReconstructor
from engine.live.loop.loop_config import LoopConfig
from engine.live.loop.swap import TRIAL_IMAGES, SwapStep
from engine.measurement.file_rows import measurement_rows
from engine.reconstruction.reconstructor import Reconstructor

WAIT_S = 20.0
"""Longest wait for something that is sure to happen."""

PATIENT = LoopConfig(policy="every-frame", deadline_ms=None, queue_frames=100)
"""No frame is refused, none is late."""

SINGLE = 1e-5
"""Relative to the peak: rows are rounded to single precision in the file's path before the solve."""


def until(condition):
    """Wait until a condition holds that is sure to."""
    pause = threading.Event()
    for _ in range(int(WAIT_S / 0.002)):
        if condition():
            return
        pause.wait(0.002)
    raise AssertionError("nothing happened")


def run(reconstructor, frames, config=PATIENT, **parts):
    """Push frames and return the images, the account and the events."""
    images, events = [], []
    live = LiveReconstructor(reconstructor, config, images.append, events.append, **parts)
    with live:
        for frame in frames:
            live.push(frame)
    return images, live.counters(), events


def test_images_are_those_of_the_same_frames_in_a_file(scan, operators, reconstructor, raw, image):
    concentrations = np.stack([image, 0.5 * image, 2 * image[::-1]])
    background = [raw(number) for number in range(4)]
    frames = [raw(4 + number, each) for number, each in enumerate(concentrations)]
    images, counters, events = run(reconstructor, background + frames)
    file = scan.measurement(
        np.stack([frame.data for frame in background + frames]), np.array([True] * 4 + [False] * 3)
    )
    expected = [
        Reconstructor(reconstructor.solver).reconstruct(rows).image
        for rows in measurement_rows(file, operators).rows
    ]
    for found, wanted in zip(images, expected, strict=True):
        np.testing.assert_allclose(found.image, wanted, rtol=0, atol=SINGLE * np.abs(wanted).max())
        assert found.report.flags == ()
        assert found.background.n_frames == 4
    assert [found.report.sequence for found in images] == [4, 5, 6]
    assert (counters.frames_in, counters.images_out, counters.background_in) == (3, 3, 4)
    assert counters.is_balanced
    assert events == []


def test_images_can_be_read_from_an_iterator(reconstructor, raw, image):
    with LiveReconstructor(reconstructor, PATIENT) as live:
        for number in range(3):
            live.push(raw(number, image))
        images = live.images()
        assert [next(images).report.sequence for _ in range(3)] == [0, 1, 2]
        live.push(raw(3, image))
    assert [each.report.sequence for each in live.images()] == [3]


@pytest.mark.parametrize(
    ("policy", "sequences", "averaged", "dropped"),
    [
        ("latest", [0, 9], 0, {DropReason.OVERTAKEN: 8}),
        ("block-average", [0, 9], 5, {DropReason.QUEUE_FULL: 3}),
        ("every-frame", [0, 1, 2, 3, 4, 5, 6], 0, {DropReason.QUEUE_FULL: 3}),
    ],
)
def test_policies_when_the_method_is_slow(
    solver, reconstructor, raw, image, policy, sequences, averaged, dropped
):
    # The first frame is held in the method while nine more come; six of them have a place.
    images = []
    config = LoopConfig(policy=policy, deadline_ms=None, queue_frames=6)
    live = LiveReconstructor(reconstructor, config, images.append).start()
    solver.hold()
    live.push(raw(0, image))
    solver.wait_until_held()
    for number in range(1, 10):
        live.push(raw(number, image))
        assert live.counters().is_balanced
    solver.gate.set()
    counters = live.close()
    assert [each.report.sequence for each in images] == sequences
    assert (counters.averaged, counters.dropped, counters.in_flight) == (averaged, dropped, 0)
    assert counters.frames_in == 10
    assert counters.is_balanced


def test_a_block_is_the_mean_of_its_frames(scan, solver, reconstructor, raw, image):
    images = []
    config = LoopConfig(policy="block-average", deadline_ms=None)
    live = LiveReconstructor(reconstructor, config, images.append).start()
    solver.hold()
    live.push(raw(0, image))
    solver.wait_until_held()
    block = [raw(number, image * number) for number in (1, 2, 3, 4)]
    for frame in block:
        live.push(frame)
    solver.gate.set()
    live.close()
    mean = raw(9, image, data=np.mean([frame.data for frame in block], axis=0))
    (alone,), _, _ = run(reconstructor, [mean])
    np.testing.assert_allclose(images[1].image, alone.image, rtol=0, atol=SINGLE * alone.image.max())
    assert (images[1].report.first_sequence, images[1].report.n_frames) == (1, 4)
    assert Flag.AVERAGED in images[1].report.flags


def test_an_image_after_its_deadline_is_late(solver, reconstructor, raw, image):
    images = []
    config = LoopConfig(policy="every-frame", deadline_ms=5.0, reserve_ms=1.0)
    live = LiveReconstructor(reconstructor, config, images.append).start()
    solver.hold()
    live.push(raw(0, image))
    solver.wait_until_held()
    threading.Event().wait(0.02)
    solver.gate.set()
    assert live.close().late >= 1
    assert Flag.LATE in images[0].report.flags
    assert images[0].report.latency_ms > 20


def test_frames_that_are_not_finite_or_do_not_fit_are_dropped(reconstructor, raw, image):
    bad = raw(1, image).data.copy()
    bad[0, 1, 20] = np.nan
    frames = [
        raw(0, image),
        raw(1, image, data=bad),
        raw(2, image, data=np.ones((3, 1, 101), np.complex64)),
        raw(3, image),
    ]
    images, counters, events = run(reconstructor, frames)
    assert [each.report.sequence for each in images] == [0, 3]
    assert counters.dropped == {DropReason.NOT_FINITE: 1, DropReason.MISMATCH: 1}
    assert counters.is_balanced
    assert [(event.name, event.fields["sequence"]) for event in events] == [
        ("frame-dropped", 1),
        ("frame-dropped", 2),
    ]
    assert "receive channels [1]" in events[0].fields["error"]
    assert all(np.isfinite(each.image).all() for each in images)


def test_empty_frames_that_do_not_fit_are_refused(reconstructor, raw, image):
    bad = raw(0).data.copy()
    bad[0, 0, 20] = np.inf
    images, counters, events = run(reconstructor, [raw(0, data=bad), raw(1), raw(2, image)])
    assert images[0].background.n_frames == 1
    assert counters.rejected == {"background-mismatch": 1}
    assert [event.name for event in events] == ["background-refused"]


@pytest.mark.parametrize("failure", [RuntimeError("the session broke"), MemoryError("no room")])
def test_an_error_of_the_method_costs_its_frame_only(solver, reconstructor, raw, image, failure):
    images, events = [], []
    live = LiveReconstructor(reconstructor, PATIENT, images.append, events.append).start()
    solver.hold()
    solver.failure = failure
    live.push(raw(0, image))
    solver.wait_until_held()
    solver.gate.set()
    until(lambda: live.counters().dropped)
    solver.failure = None
    live.push(raw(1, image))
    counters = live.close()
    assert [each.report.sequence for each in images] == [1]
    assert counters.dropped == {DropReason.FAILED: 1}
    assert counters.is_balanced
    (event,) = events
    assert (event.name, event.level) == ("frame-failed", logging.ERROR)
    assert str(failure) in event.fields["error"]


def test_an_error_of_the_callback_costs_nothing_else(reconstructor, raw, image):
    events = []

    def fail(_image):
        raise ValueError("no screen")

    with LiveReconstructor(reconstructor, PATIENT, fail, events.append) as live:
        for number in range(3):
            live.push(raw(number, image))
    assert live.counters().images_out == 3
    assert [event.name for event in events] == ["image-callback-failed"] * 3


def test_flags_of_doubt(scan, reconstructor, raw, image):
    def flags(*frames, **limits):
        images, _, _ = run(reconstructor, frames, replace(PATIENT, **limits))
        return set(images[-1].report.flags)

    background = [raw(number) for number in range(3)]
    assert flags(*background, raw(3, image)) == set()
    assert flags(raw(3, image)) >= {Flag.NO_BACKGROUND}
    assert flags(*background, raw(3, image), raw(5, image)) == {Flag.GAP}
    assert flags(*background, raw(3, image), background_max_age_s=1e-9) == {Flag.BACKGROUND_OLD}
    assert flags(*background, raw(3, image), noise_range=(2.0, 3.0)) == {Flag.NOISE_LEVEL}
    assert flags(*background, raw(3, image), max_residual=1e-3) == {Flag.RESIDUAL}
    assert flags(*background, raw(3, image, acquired_ns=0), raw(4, image, acquired_ns=10**10)) == {
        Flag.CLOCK_JUMP
    }


def test_data_of_another_scanner_state_raise_the_residual_flag(scan, reconstructor, raw, image):
    # The periods in another order: no image explains these data, although their noise is the same.
    background = [raw(number) for number in range(3)]
    good = raw(3, image)
    mixed = (good.data - scan.background)[[2, 0, 1]] + scan.background
    images, _, _ = run(reconstructor, [*background, good, raw(4, image, data=mixed)])
    assert [Flag.RESIDUAL in each.report.flags for each in images] == [False, True]
    assert images[0].report.residual_ratio < 1


def test_residual_ratio_by_definition(scan, operators, reconstructor, raw, image):
    (found,), _, _ = run(reconstructor, [raw(0, image)], replace(PATIENT, model_error=0.2))
    spectra = raw(0, image).data
    rows = spectra[:, :, operators.acquisition.bins].reshape(-1)[operators.layout.index]
    whitened = np.concatenate([(rows / operators.noise_std).real, (rows / operators.noise_std).imag])
    model = operators.scale * operators.system_matrix.astype(np.float64) @ found.image.ravel()
    per_row = np.linalg.norm(model - whitened) / np.sqrt(whitened.size)
    expected = per_row / np.hypot(1.0, 0.2 * np.linalg.norm(whitened) / np.sqrt(whitened.size))
    assert found.report.residual_ratio == pytest.approx(expected, rel=1e-4)


def test_saturated_channels_are_named(scan, reconstructor, raw, image):
    spectra = raw(0, image).data.copy()
    spectra[..., [0, -1]] = spectra[..., [0, -1]].real
    signals = np.fft.irfft(spectra, 200, axis=-1)
    gain = np.abs(signals).max() / 32767
    counts = np.clip(np.rint(signals / gain), -32768, 32766).astype(np.int16)
    config = replace(PATIENT, conversion=((gain, 0.0), (gain, 0.0)))
    (first,), _, _ = run(reconstructor, [raw(0, image, data=counts)], config)
    assert Flag.SATURATED not in first.report.flags
    counts[1, 1, 7] = -32768
    (second,), _, _ = run(reconstructor, [raw(0, image, data=counts)], config)
    assert Flag.SATURATED in second.report.flags
    assert second.report.saturated_channels == (1,)


def test_closing_without_draining_accounts_for_what_waits(solver, reconstructor, raw, image):
    live = LiveReconstructor(reconstructor, PATIENT, lambda _: None).start()
    solver.hold()
    live.push(raw(0, image))
    solver.wait_until_held()
    live.push(raw(1, image))
    live.push(raw(2, image))
    opener = threading.Timer(0.05, solver.gate.set)
    opener.start()
    counters = live.close(drain=False)
    opener.join()
    assert (counters.images_out, counters.dropped) == (1, {DropReason.STOPPED: 2})
    assert not live.push(raw(3, image))
    assert live.counters().is_balanced


def test_a_loop_that_hangs_is_reported(solver, reconstructor, raw, image):
    live = LiveReconstructor(reconstructor, PATIENT).start()
    solver.hold()
    live.push(raw(0, image))
    solver.wait_until_held()
    with pytest.raises(LiveError, match=r"not ended within 0.05 s"):
        live.close(timeout_s=0.05)
    solver.gate.set()
    live.close()


def test_it_starts_once(reconstructor):
    live = LiveReconstructor(reconstructor, PATIENT).start()
    with pytest.raises(LiveError, match="started before"):
        live.start()
    live.close()


def test_a_method_that_does_not_work_is_refused(operators, solver):
    class Blind(type(solver)):
        def solve(self, measurements, /):
            flat = np.zeros(20, np.float32)
            flat[0] = 1
            return [replace(found, value=flat) for found in super().solve(measurements)]

    with pytest.raises(LiveError, match="made-up blob agrees"):
        LiveReconstructor(Reconstructor(Blind(operators)))


# Other operators between two frames.


@pytest.fixture
def live(reconstructor):
    """A started loop with its images and events."""
    images, events = [], []
    loop = LiveReconstructor(reconstructor, PATIENT, images.append, events.append).start()
    loop.images_made, loop.events = images, events
    yield loop
    loop.close()


def push_and_wait(live, frame):
    """Push a frame and return its image, or None if it was dropped."""
    before = live.counters()
    live.push(frame)
    until(lambda: live.counters().frames_in > before.frames_in and live.counters().in_flight == 0)
    if live.counters().images_out == before.images_out:
        return None
    until(lambda: len(live.images_made) == live.counters().images_out)
    return live.images_made[-1]


def scaled(operators, factor):
    """Operators of a scanner that receives `factor` times as much: its images are smaller by it."""
    return replace(operators, scale=factor * operators.scale)


def test_a_swap_takes_effect_at_once_and_is_accepted_later(operators, live, raw, image, make_solver):
    first = push_and_wait(live, raw(0, image))
    other = Reconstructor(make_solver(scaled(operators, 2.0)))
    assert live.swap(other).step is SwapStep.WAITING
    for number in range(1, TRIAL_IMAGES + 1):
        frame = raw(number, image, data=raw(0, image).data)
        found = push_and_wait(live, frame)
        np.testing.assert_allclose(2 * found.image, first.image, rtol=0, atol=SINGLE * first.image.max())
        assert (Flag.SWAPPED in found.report.flags) == (number == 1)
    assert live.swap_state.step is SwapStep.ACCEPTED
    assert live.reconstructor is other


def test_an_error_on_trial_brings_the_old_ones_back_without_a_loss(operators, live, raw, image, make_solver):
    push_and_wait(live, raw(0, image))
    bad = make_solver(operators)
    before = live.reconstructor
    live.swap(Reconstructor(bad))
    assert push_and_wait(live, raw(1, image)) is not None
    bad.failure = RuntimeError("the new session broke")
    assert push_and_wait(live, raw(2, image)) is not None
    assert live.swap_state.step is SwapStep.ROLLED_BACK
    assert "the new session broke" in live.swap_state.reason
    assert live.reconstructor is before
    assert live.counters().dropped == {}


def test_images_that_explain_nothing_bring_the_old_ones_back(operators, live, raw, image, make_solver):
    for number in range(3):
        live.push(raw(number))
    assert Flag.RESIDUAL not in push_and_wait(live, raw(3, image)).report.flags

    class Vague(make_solver):
        """Works on the blob of the check, and then gives half of each image only."""

        calls = 0

        def solve(self, measurements, /):
            self.calls += 1
            found = super().solve(measurements)
            return found if self.calls <= 2 else [replace(each, value=each.value / 2) for each in found]

    before = live.reconstructor
    assert live.swap(Reconstructor(Vague(operators))).step is SwapStep.WAITING
    for number in range(4, 4 + TRIAL_IMAGES):
        assert Flag.RESIDUAL in push_and_wait(live, raw(number, image)).report.flags
    assert live.swap_state.step is SwapStep.ROLLED_BACK
    assert live.reconstructor is before
    assert Flag.RESIDUAL not in push_and_wait(live, raw(50, image)).report.flags


def test_operators_of_another_sequence_are_refused(operators, live, raw, image, make_solver):
    push_and_wait(live, raw(0, image))
    other = replace(operators, acquisition=replace(operators.acquisition, n_channels=3))
    before = live.reconstructor
    state = live.swap(Reconstructor(make_solver(other)))
    assert state.step is SwapStep.REFUSED
    assert "3 periods and 3 channels" in state.reason
    push_and_wait(live, raw(1, image))
    assert live.reconstructor is before


def test_operators_that_hold_no_numbers_are_refused(operators, live, make_solver):
    broken = replace(operators, right_singular=np.full_like(operators.right_singular, np.nan))
    assert live.swap(Reconstructor(make_solver(broken))).step is SwapStep.REFUSED


def test_the_background_outlives_a_swap(operators, live, raw, image, make_solver):
    for number in range(4):
        live.push(raw(number))
    push_and_wait(live, raw(4, image))
    live.swap(Reconstructor(make_solver(operators)))
    found = push_and_wait(live, raw(5, image))
    assert found.background.n_frames == 4
    assert Flag.NO_BACKGROUND not in found.report.flags
