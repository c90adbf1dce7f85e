"""The noise level as the networks see it, and weights for networks that begin to see it."""

from math import log

import torch
from torch import Tensor

REFERENCE_NOISE = 0.05
"""Standard deviation of a normalised real row at level zero: about 20 dB on the reference scanner."""

LEVEL_RANGE = (-2.0, 2.0)
"""Decades around the reference; beyond it, a network sees the end of the range."""


FIRST_KERNELS = ("entry.weight", "hidden.0.weight")
"""Of Psi_RDN and Psi_LC: the kernels that see the noise level."""


def noise_level(noise: Tensor) -> Tensor:
    """Return log10(noise / `REFERENCE_NOISE`), clamped to `LEVEL_RANGE`; noise must be positive."""
    decades = torch.log(noise) * (1.0 / log(10.0)) - log(REFERENCE_NOISE) / log(10.0)
    return torch.clamp(decades, *LEVEL_RANGE)


def with_noise_channel(weights: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Let weights of a network without noise level start one that takes it.

    Where a network's first kernel lacks exactly its last input channel, that of the noise level, it gets a
    zero one: at first the network does what it did.

    Parameters
    ----------
    weights : dict of str to Tensor
        Weights read.
    own : dict of str to Tensor
        State of the network they are for; names as in `weights`.

    Returns
    -------
    dict of str to Tensor
    """
    widened = dict(weights)
    for name, value in weights.items():
        if name not in own or not name.endswith(FIRST_KERNELS):
            continue
        wanted = own[name].shape
        lacks_one = value.ndim == len(wanted) == 4 and value.shape[1] + 1 == wanted[1]
        if lacks_one and (value.shape[0], *value.shape[2:]) == (wanted[0], *wanted[2:]):
            channel = value.new_zeros(value.shape[0], 1, *value.shape[2:])
            widened[name] = torch.cat([value, channel], dim=1)
    return widened
