"""Every frame that goes in comes out once or is counted, whatever the order in which they come."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.live.loop.counters import DropReason, Ledger
from engine.live.loop.frame_queue import REMEMBERED, FrameQueue
from engine.live.loop.late_frames import POLICIES
from engine.measurement.raw_frame import RawFrame

DATA = np.ones((1, 1, 3), np.complex64)
OTHER = np.ones((1, 1, 4), np.complex64)


def queue_of(policy, capacity=4, background=4):
    ledger = Ledger()
    return FrameQueue(POLICIES[policy], capacity, background, ledger, clock_jump_s=1.0), ledger


def frame(sequence, stream="a", data=DATA, **fields):
    return RawFrame(sequence, data, stream, **fields)


def taken(queue):
    """Everything that waits, as lists of numbers, one list per batch with frames."""
    batches = []
    while (batch := queue.take(0.0)) is not None and (batch.frames or batch.background):
        if batch.frames:
            batches.append([waiting.place[1] for waiting in batch.frames])
    return batches


def test_latest_keeps_the_newest():
    queue, ledger = queue_of("latest")
    for number in range(5):
        assert queue.put(frame(number))
    assert taken(queue) == [[4]]
    assert ledger.counters().dropped == {DropReason.OVERTAKEN: 4}


def test_latest_keeps_the_newest_whatever_comes_last():
    queue, ledger = queue_of("latest")
    assert queue.put(frame(7))
    assert not queue.put(frame(6))
    assert taken(queue) == [[7]]
    assert ledger.counters().dropped == {DropReason.OVERTAKEN: 1}


def test_block_average_takes_all_of_one_layout_and_stream():
    queue, _ = queue_of("block-average", capacity=10)
    for number in (0, 2, 1):
        queue.put(frame(number))
    queue.put(frame(3, data=OTHER))
    queue.put(frame(4, data=OTHER))
    queue.put(frame(0, stream="b", data=OTHER))
    assert taken(queue) == [[0, 1, 2], [3, 4], [0]]


def test_block_average_drops_the_oldest_beyond_the_capacity():
    queue, ledger = queue_of("block-average", capacity=3)
    for number in range(5):
        queue.put(frame(number))
    assert taken(queue) == [[2, 3, 4]]
    assert ledger.counters().dropped == {DropReason.QUEUE_FULL: 2}


def test_every_frame_refuses_the_newest_beyond_the_capacity():
    queue, ledger = queue_of("every-frame", capacity=3)
    assert [queue.put(frame(number)) for number in range(5)] == [True, True, True, False, False]
    assert taken(queue) == [[0], [1], [2]]
    assert ledger.counters().dropped == {DropReason.QUEUE_FULL: 2}


def test_a_producer_can_wait_for_a_place():
    queue, ledger = queue_of("every-frame", capacity=1)
    assert queue.put(frame(0))
    reader = threading.Timer(0.05, lambda: queue.take(0.0))
    reader.start()
    assert queue.put(frame(1), wait_s=20.0)
    reader.join()
    assert ledger.counters().dropped == {}


@pytest.mark.parametrize("policy", POLICIES)
def test_duplicates_and_late_comers_are_dropped(policy):
    queue, ledger = queue_of(policy)
    queue.put(frame(0))
    queue.put(frame(5))
    taken(queue)
    assert not queue.put(frame(5))
    assert not queue.put(frame(3))
    assert not queue.put(frame(3))
    dropped = ledger.counters().dropped
    assert dropped[DropReason.DUPLICATE] == 2
    assert dropped[DropReason.OUT_OF_ORDER] == 1


def test_frames_in_the_wrong_order_come_out_in_the_right_one():
    queue, ledger = queue_of("every-frame")
    for number in (2, 0, 3, 1):
        queue.put(frame(number))
    assert taken(queue) == [[0], [1], [2], [3]]
    assert ledger.counters().dropped == {}


def test_a_new_stream_restarts_the_numbers_and_the_old_one_has_ended():
    queue, ledger = queue_of("every-frame")
    queue.put(frame(100))
    queue.put(frame(0, stream="b"))
    assert not queue.put(frame(101))
    assert taken(queue) == [[100], [0]]
    assert ledger.counters().dropped == {DropReason.OUT_OF_ORDER: 1}


def test_gaps_are_numbers_that_never_came():
    queue, _ = queue_of("latest")

    def gap_after(*numbers):
        for number in numbers:
            queue.put(frame(number, is_background=number == 20))
        return queue.take(0.0).has_gap

    assert not gap_after(0)
    assert not gap_after(1)
    assert gap_after(3)
    assert not gap_after(4, 5, 6)  # overtaken, not missing
    assert gap_after(19)
    assert not gap_after(20, 21)  # a background frame in between
    assert gap_after(22 + 2 * REMEMBERED)


def test_background_frames_are_counted_apart_and_the_oldest_goes():
    queue, ledger = queue_of("latest", background=2)
    for number in range(4):
        queue.put(frame(number, is_background=True))
    assert not queue.put(frame(3, is_background=True))
    batch = queue.take(0.0)
    assert [each.sequence for each in batch.background] == [2, 3]
    counters = ledger.counters()
    assert (counters.background_in, counters.frames_in) == (4, 0)
    assert counters.rejected == {"background-duplicate": 1}


def test_clock_jumps_are_seen_in_both_directions():
    queue, _ = queue_of("every-frame", capacity=10)
    second = 10**9
    for number, stamp in enumerate([50, 50, 49.9, 53, 10, 10]):
        queue.put(frame(number, acquired_ns=int(stamp * second)))
    jumps = [queue.take(0.0).frames[0].has_clock_jump for _ in range(6)]
    assert jumps == [False, False, False, True, True, False]


def test_closing_drops_what_waits_or_lets_it_out():
    queue, ledger = queue_of("every-frame")
    queue.put(frame(0))
    queue.put(frame(1))
    queue.close(drain=True)
    assert not queue.put(frame(2))
    assert taken(queue) == [[0], [1]]
    assert queue.take(0.0) is None
    assert ledger.counters().dropped == {DropReason.STOPPED: 1}

    queue, ledger = queue_of("every-frame")
    queue.put(frame(0))
    queue.close(drain=False)
    assert queue.take(0.0) is None
    assert ledger.counters().dropped == {DropReason.STOPPED: 1}


ACTIONS = st.lists(
    st.one_of(
        st.just("take"),
        st.tuples(st.integers(0, 12), st.sampled_from("ab"), st.booleans(), st.booleans()),
    ),
    max_size=60,
)


@given(policy=st.sampled_from(list(POLICIES)), capacity=st.integers(1, 5), actions=ACTIONS)
@settings(max_examples=200, deadline=None)
def test_the_account_is_exact_after_every_step(policy, capacity, actions):
    queue, ledger = queue_of(policy, capacity)
    n_put = 0
    waiting_at_most = 1 if policy == "latest" else capacity
    places = []
    for action in actions:
        if action == "take":
            batch = queue.take(0.0)
            if batch.frames:
                places += [waiting.place for waiting in batch.frames]
                ledger.image(len(batch.frames), is_late=False, is_converged=True)
        else:
            number, stream, is_background, is_other = action
            queue.put(frame(number, stream, OTHER if is_other else DATA, is_background=is_background))
            n_put += not is_background
        counters = ledger.counters()
        assert counters.is_balanced
        assert counters.frames_in == n_put
        assert 0 <= counters.in_flight <= waiting_at_most
        assert counters.images_out + counters.averaged == len(places)
    assert places == sorted(set(places))  # in order, each once
    queue.close(drain=False)
    assert ledger.counters().in_flight == 0


def test_many_threads_leave_an_exact_account():
    queue, ledger = queue_of("block-average", capacity=5)
    n_threads, n_each = 6, 300
    stop = threading.Event()

    def produce(first):
        for number in range(first, n_threads * n_each, n_threads):
            queue.put(frame(number))

    def consume():
        while not stop.is_set() or queue.oldest_wait_s() is not None:
            batch = queue.take(0.01)
            if batch.frames:
                ledger.image(len(batch.frames), is_late=False, is_converged=True)

    reader = threading.Thread(target=consume)
    reader.start()
    writers = [threading.Thread(target=produce, args=(first,)) for first in range(n_threads)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    stop.set()
    reader.join()
    counters = ledger.counters()
    assert counters.is_balanced
    assert counters.in_flight == 0
    assert counters.frames_in == n_threads * n_each
