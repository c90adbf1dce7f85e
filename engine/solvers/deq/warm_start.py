"""The first state of a frame from the last state of the frame before: for sequences in time.

Little of a scene changes between two frames 21.5 ms apart, but all of the noise does. So the image is brought
up to date with what the new data say beyond it, and of the duals only what the image explains is kept, and
only a share of it: duals that are handed on in full grow from frame to frame beyond what any solve of a
single frame reaches, and quality falls with it.
"""

import math
from dataclasses import dataclass

import numpy as np

from engine.arrays import Float32Array
from engine.measurement.normalization import NormalizedMeasurement, noise_bound
from engine.operators.operators import Operators

IMAGE_WEIGHT = 30.0
"""Weight of ||x||^2 against the misfit in the update of the image, in units of the noise variance: the best
of 3, 10, 30 and 100 at 5 to 35 dB as a start of single frames."""

DUAL_SHARE = 0.3
"""Share of the duals that is handed on: with 0.5 and more, frames of 35 dB end below those solved alone."""

LARGEST_CHANGE = 0.3
"""Largest change of the data, beyond noise and relative to their size: above, it is another scene. Vessel
phantoms that move by a voxel per frame change them by 0.2 to 0.3, another phantom by 0.87 and more."""


@dataclass(frozen=True)
class LastFrame:
    """Rest of a solved frame that it leaves for the next one.

    Attributes
    ----------
    measurement : NormalizedMeasurement
        Measurement of the frame.
    image, image_dual : ndarray of float32, shape (N,)
        Image x and its dual d1 at the end, normalised.
    explained_dual : ndarray of float32, shape (N,)
        Coordinates U^T d0 of the data dual.
    """

    measurement: NormalizedMeasurement
    image: Float32Array
    image_dual: Float32Array
    explained_dual: Float32Array


@dataclass(frozen=True)
class FirstState:
    """First state of a solve: x (N,), d0 (R,) and d1 (N,), float32."""

    image: Float32Array
    data_dual: Float32Array
    image_dual: Float32Array


def is_same_scene(measurement: NormalizedMeasurement, last: LastFrame, operators: Operators) -> bool:
    """Whether a frame differs from the one before by no more than `LARGEST_CHANGE`, apart from noise.

    Parameters
    ----------
    measurement : NormalizedMeasurement
        Measurement of the new frame.
    last : LastFrame
        Frame before it.
    operators : Operators
        Operators of both frames.

    Raises
    ------
    PairingError
        If the noise level of a measurement is not known.
    """
    gain = last.measurement.intensity / measurement.intensity
    before, now = last.measurement.explained.astype(np.float64), measurement.explained.astype(np.float64)
    difference = float(np.sum((now - gain * before) ** 2))
    # Independent noise of both frames, in the N explained coordinates of the R rows.
    variances = [
        factor**2 * noise_bound(frame, operators) ** 2 / operators.n_rows
        for frame, factor in ((measurement, 1.0), (last.measurement, gain))
    ]
    noise = len(now) * sum(variances)
    signal = max(float(np.sum(now**2)) - len(now) * variances[0], 0.0)
    return max(difference - noise, 0.0) <= LARGEST_CHANGE**2 * signal


def warm_start(
    measurement: NormalizedMeasurement, last: LastFrame, operators: Operators, dual_start: float
) -> FirstState:
    """Return the first state of a frame from the last one of the frame before.

    x = max(x' + V diag(s / (s^2 + w sigma^2)) (U^T y - s V^T x'), 0) with w = `IMAGE_WEIGHT` and x' the image
    before; d0 = `NormalizedMeasurement.data_dual` plus `DUAL_SHARE` of the explained part of the dual before;
    d1 the same share of the image dual before. All are brought to the new frame's intensity.

    Parameters
    ----------
    measurement : NormalizedMeasurement
        Measurement of the new frame.
    last : LastFrame
        Frame before it.
    operators : Operators
        Operators of both frames.
    dual_start : float
        Size of the first data dual, as for a single frame.

    Raises
    ------
    PairingError
        If the noise level of the measurement is not known.
    """
    gain = np.float32(last.measurement.intensity / measurement.intensity)
    image = gain * last.image
    noise = noise_bound(measurement, operators) / math.sqrt(operators.n_rows)
    s = operators.singular_values
    unexplained = measurement.explained - s * (image @ operators.right_singular)
    update = operators.right_singular @ (s / (s**2 + IMAGE_WEIGHT * noise**2) * unexplained)
    share = np.float32(DUAL_SHARE) * gain
    kept = (share * last.explained_dual) @ operators.left_singular
    dual = (measurement.data_dual(dual_start) + kept).astype(np.float32, copy=False)
    return FirstState(
        image=np.maximum(image + update, 0).astype(np.float32),
        data_dual=dual,
        image_dual=share * last.image_dual,
    )
