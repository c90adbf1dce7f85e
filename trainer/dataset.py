"""The training images: drawn with replacement, scaled and flipped at random."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import ConfigError
from trainer.noise import draw_uniform


class PhantomSet:
    """A set of non-negative images of peak 1, drawn in random batches.

    Parameters
    ----------
    images : ndarray of float32, shape (n, Ny, Nx)
        Peak 1, minimum 0.
    intensity : tuple of float, optional
        Range of the peak each drawn image is scaled to.
    device : torch.device or str, optional

    Raises
    ------
    ConfigError
        If the array is not a non-empty stack of finite images.
    """

    def __init__(
        self,
        images: NDArray[np.floating],
        intensity: tuple[float, float] = (1.0, 1.0),
        device: torch.device | str = "cpu",
    ) -> None:
        if images.ndim != 3 or len(images) == 0 or not np.isfinite(images).all():
            raise ConfigError(f"images of shape {images.shape}; expected finite values of shape (n, Ny, Nx)")
        self.images = torch.tensor(images, dtype=torch.float32, device=device)
        self._intensity = intensity

    def __len__(self) -> int:
        return len(self.images)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw a batch of images (B, Ny, Nx): with replacement, each flip with probability one half."""
        device = generator.device
        picked = torch.randint(len(self), (count,), generator=generator, device=device)
        flips = torch.rand(2, count, generator=generator, device=device) < 0.5
        scale = draw_uniform(*self._intensity, count, generator)
        batch = self.images[picked]
        for axis, flip in zip((1, 2), flips, strict=True):
            batch = torch.where(flip[:, None, None], batch.flip(axis), batch)
        return batch * scale[:, None, None]
