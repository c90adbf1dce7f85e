"""The rules of the group /measurement: flags, index lists and the data they announce."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import MdfError
from engine.mpi.mdf.model import Acquisition, Measurement

REAL_TYPES = frozenset({"i1", "i2", "i4", "i8", "f4", "f8"})
COMPLEX_TYPES = frozenset({"c8", "c16"})


def check_measurement(measurement: Measurement, acquisition: Acquisition) -> None:
    """Check flags, index lists, type and shape of the data, and the frame lists; raise `MdfError`."""
    _check_flags(measurement)
    _check_selection(measurement, acquisition.receiver.num_sampling_points)
    check_number("/measurement/data", measurement.data.dtype)
    _check_domain(measurement)
    _check_layout(measurement, acquisition)
    _check_frames(measurement, acquisition.num_frames)


def n_bins(measurement: Measurement, n_samples: int) -> int:
    """Return K, the number of frequency bins that the file's spectra have."""
    if measurement.is_frequency_selection and measurement.frequency_selection is not None:
        return len(measurement.frequency_selection)
    return n_samples // 2 + 1


def check_number(path: str, dtype: np.dtype[Any]) -> None:
    """Check that a type is one MDF allows for data; raise `MdfError` naming `path` if not."""
    if dtype.names is None:
        accepted = dtype.str[1:] in REAL_TYPES | COMPLEX_TYPES
    elif set(dtype.names) == {"r", "i"}:
        accepted = all(dtype[name].str[1:] in REAL_TYPES for name in dtype.names)
    else:
        raise MdfError(
            f"{path} is a compound of the members {', '.join(dtype.names)}; expected r and i; "
            "store complex values as r and i"
        )
    if not accepted:
        raise MdfError(
            f"{path} has the type {dtype}; expected int8 to int64, float32, float64 or complex numbers of "
            "these; convert the data"
        )


def _check_flags(measurement: Measurement) -> None:
    if measurement.is_sparsity_transformed:
        raise MdfError(
            "/measurement/isSparsityTransformed is 1; expected 0: compressed data are not supported; "
            "export the calibration uncompressed"
        )
    if measurement.is_frequency_selection and not measurement.is_fourier_transformed:
        raise MdfError(
            "/measurement/isFrequencySelection is 1 with isFourierTransformed 0; expected a selection only "
            "for spectra; correct the flags"
        )
    selection, permutation = measurement.frequency_selection, measurement.frame_permutation
    _check_conditional(
        "isFrequencySelection", measurement.is_frequency_selection, "frequencySelection", selection
    )
    _check_conditional(
        "isFramePermutation", measurement.is_frame_permutation, "framePermutation", permutation
    )


def _check_conditional(flag: str, needed: bool, name: str, value: NDArray[np.int64] | None) -> None:
    if needed and value is None:
        raise MdfError(
            f"/measurement/{name} is missing while {flag} is 1; expected the list; add it or clear the flag"
        )
    if value is not None and not needed:
        raise MdfError(
            f"/measurement/{name} is given while {flag} is 0; expected it only with the flag; "
            "set the flag or leave the list out"
        )


def _check_selection(measurement: Measurement, n_samples: int) -> None:
    selection = measurement.frequency_selection
    if selection is None:
        return
    path, last = "/measurement/frequencySelection", n_samples // 2 + 1
    if selection.ndim != 1 or not selection.size:
        raise MdfError(f"{path} has shape {selection.shape}; expected a list of bins (K,); correct the file")
    if np.any(selection == 0):
        raise MdfError(
            f"{path} holds a 0; expected 1-based bins from 1 to {last}; add one to each bin of a 0-based list"
        )
    outside = selection[(selection < 1) | (selection > last)]
    if outside.size:
        raise MdfError(
            f"{path} holds bin {outside[0]}; expected 1-based bins from 1 to {last} "
            "(numSamplingPoints // 2 + 1); correct the list or numSamplingPoints"
        )
    distinct, counts = np.unique(selection, return_counts=True)
    if np.any(counts > 1):
        raise MdfError(
            f"{path} holds bin {distinct[counts > 1][0]} more than once; expected distinct bins; "
            "correct the list"
        )


def _check_domain(measurement: Measurement) -> None:
    dtype = measurement.data.dtype
    has_complex = dtype.names is not None or dtype.kind == "c"
    if has_complex == measurement.is_fourier_transformed:
        return
    found = "complex" if has_complex else "real"
    expected = "real time signals" if has_complex else "complex spectra"
    raise MdfError(
        f"/measurement/data has the {found} type {dtype} while isFourierTransformed is "
        f"{int(measurement.is_fourier_transformed)}; expected {expected}; correct the flag or the data"
    )


def _check_layout(measurement: Measurement, acquisition: Acquisition) -> None:
    n_samples = acquisition.receiver.num_sampling_points
    frames = {"N": acquisition.num_frames}
    signal = {"J": acquisition.num_periods_per_frame, "C": acquisition.receiver.num_channels}
    if measurement.is_fourier_transformed:
        signal["K"] = n_bins(measurement, n_samples)
    else:
        signal["V"] = n_samples
    axes = {**signal, **frames} if measurement.is_fast_frame_axis else {**frames, **signal}
    if measurement.data.shape != tuple(axes.values()):
        raise MdfError(
            f"/measurement/data has shape {measurement.data.shape}; expected "
            f"({', '.join(f'{letter}={length}' for letter, length in axes.items())}) from the flags, the "
            "counts of /acquisition and the frequency selection; correct whichever is wrong"
        )


def _check_frames(measurement: Measurement, n_frames: int) -> None:
    mask, permutation = measurement.is_background_frame, measurement.frame_permutation
    for name, values in (("isBackgroundFrame", mask), ("framePermutation", permutation)):
        if values is not None and values.shape != (n_frames,):
            raise MdfError(
                f"/measurement/{name} has shape {values.shape}; expected (N={n_frames},), one entry per "
                "frame; correct the file"
            )
    if np.all(mask):
        raise MdfError(
            f"/measurement/isBackgroundFrame marks all {n_frames} frames; expected at least one foreground "
            "frame; correct the mask"
        )
    if permutation is not None and not np.array_equal(np.sort(permutation), np.arange(1, n_frames + 1)):
        raise MdfError(
            f"/measurement/framePermutation, with values from {permutation.min()} to {permutation.max()}, is "
            f"no permutation; expected each of 1 to {n_frames} once; correct the list"
        )
