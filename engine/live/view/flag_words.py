"""Flags and reasons in the words that people read on the page."""

from collections.abc import Mapping

from engine.live.loop.counters import DropReason
from engine.live.loop.live_image import Flag

FLAG_WORDS: Mapping[Flag, tuple[str, str]] = {
    Flag.LATE: ("late", "the image came out after its deadline"),
    Flag.DEADLINE: ("stopped at the deadline", "the solve was ended early; this is its best iterate"),
    Flag.NOT_CONVERGED: ("not converged", "the solve did not reach its tolerance; this is its best iterate"),
    Flag.AVERAGED: ("average", "several frames are in this image"),
    Flag.GAP: ("gap", "frames are missing before this one"),
    Flag.CLOCK_JUMP: ("clock jump", "the scanner's clock went back, or far ahead of this machine's"),
    Flag.NO_BACKGROUND: ("no background", "nothing was subtracted; send background frames"),
    Flag.BACKGROUND_OLD: ("old background", "the background frames are long ago; take new ones"),
    Flag.NOISE_LEVEL: ("noise level", "the noise is far from that of the calibration"),
    Flag.RESIDUAL: (
        "does not explain the data",
        "the residual is too large: the scanner has changed, or these are the wrong operators",
    ),
    Flag.SATURATED: ("saturated", "a receive channel reached its limit; lower the gain"),
    Flag.SWAPPED: ("swapped", "the first image with other operators or another model"),
}
"""A few words and one explanation for every flag."""

DROP_WORDS: Mapping[DropReason, str] = {
    DropReason.OVERTAKEN: "overtaken by a newer frame",
    DropReason.QUEUE_FULL: "no place in the queue",
    DropReason.DUPLICATE: "sent twice",
    DropReason.OUT_OF_ORDER: "after its successor",
    DropReason.NOT_FINITE: "NaN or infinity",
    DropReason.MISMATCH: "wrong shape or type",
    DropReason.FAILED: "solver error",
    DropReason.STOPPED: "service stopped",
}
"""Words for every reason why a frame is in no image."""
