"""Losses of reconstructed images, by their names in a configuration."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

SMALLEST_ERROR = 1e-6
"""Mean absolute error below which "log_l1" sees no difference: far below any reconstruction's."""


def mean_error(x: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute error of images (B, N), Eqs. (12) and (13)."""
    return (x - truth).abs().mean()


def mean_log_error(x: Tensor, truth: Tensor) -> Tensor:
    """Mean over images (B, N) of the logarithm of the mean absolute error of each.

    The error of an image falls by two orders of magnitude between 5 and 45 dB. Its mean is that of the noisy
    images alone; the logarithm gives every image the same say in relative terms, as the mean pSNR does.
    """
    return torch.log((x - truth).abs().mean(dim=1).clamp(min=SMALLEST_ERROR)).mean()


IMAGE_LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"l1": mean_error, "log_l1": mean_log_error}
)
"""(images (B, N), truth (B, N)) to a scalar."""
