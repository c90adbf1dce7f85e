"""The mark by which a recording that was not finished says so, for those who read MDF files.

`engine.live.recording.growing_file` writes it. A finished recording is an MDF file like any other, without
the mark.
"""

import h5py

MARK = "/_recording"
"""Dataset that only unfinished recordings have: JSON text with the names of their growing datasets."""

COUNT = "/acquisition/numFrames"
"""Dataset with the number of complete frames; written after each of them."""

LENGTHS = "Bytes"
"""Ending of the dataset with the length of each text in a growing dataset of texts."""

REMEDY = "run engine recover on it, or reconstruct it with engine recon --follow while it grows"


def is_unfinished(handle: h5py.File) -> bool:
    """Return whether a file is a recording that grows, or stopped growing without being finished."""
    return MARK in handle
