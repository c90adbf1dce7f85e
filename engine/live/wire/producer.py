"""The scanner's side: frames pushed to a service."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import zmq

from engine.errors import LiveError
from engine.live.wire.messages import encode_frame
from engine.measurement.raw_frame import RawFrame

SEND_MS = 30_000
"""Longest time for the service to take a frame; it may be starting."""

FAREWELL_MS = 5_000
"""Time in ms for the last frames to leave when the producer ends."""


@contextmanager
def producer(endpoint: str) -> Iterator[Callable[[RawFrame], None]]:
    """Connect to a service; yield the function that sends a frame.

    Parameters
    ----------
    endpoint : str
        Endpoint at which the service takes frames.

    Raises
    ------
    LiveError
        From the function, if the service takes no frame within `SEND_MS`.
    """
    with zmq.Context() as context, context.socket(zmq.PUSH) as target:
        target.linger = FAREWELL_MS
        target.sndtimeo = SEND_MS
        target.immediate = True  # frames wait here only while there is a service
        target.connect(endpoint)

        def push(frame: RawFrame) -> None:
            try:
                target.send_multipart(encode_frame(frame))
            except zmq.Again as error:
                raise LiveError(
                    f"the service at {endpoint} took no frame for {SEND_MS / 1e3:g} s; expected it to be "
                    "running; start it, or correct the endpoint"
                ) from error

        yield push
