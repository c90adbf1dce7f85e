"""The training images: drawn with replacement, scaled and flipped at random."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import ConfigError
from trainer.data.noise import draw_uniform


def require_images(images: NDArray[np.floating], name: str) -> None:
    """Check that there is something to learn from in every image.

    Parameters
    ----------
    images : ndarray, shape (n, Ny, Nx)
    name : str
        What they are for, used in messages.

    Raises
    ------
    ConfigError
        If the array is no non-empty stack, or an image holds NaN or infinity or one value only.
    """
    advice = "check or replace their source"
    if images.ndim != 3 or images.size == 0:
        raise ConfigError(
            f"{name} images of shape {images.shape}; expected finite values of shape (n, Ny, Nx): {advice}"
        )
    flat = images.reshape(len(images), -1)
    bad = np.flatnonzero(~np.isfinite(flat).all(axis=1))
    if len(bad):
        raise ConfigError(
            f"{name} images with NaN or infinity: {len(bad)} of {len(images)}, the first is number {bad[0]}; "
            f"expected finite values of shape (n, Ny, Nx): {advice}"
        )
    empty = np.flatnonzero(flat.min(axis=1) == flat.max(axis=1))
    if len(empty):
        raise ConfigError(
            f"{name} images without contrast: {len(empty)} of {len(images)}, the first is number {empty[0]} "
            f"and {flat[empty[0], 0]:g} everywhere; expected images of minimum 0 and peak 1: {advice}"
        )


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
        If the array is not a non-empty stack of finite images with contrast.
    """

    def __init__(
        self,
        images: NDArray[np.floating],
        intensity: tuple[float, float] = (1.0, 1.0),
        device: torch.device | str = "cpu",
    ) -> None:
        require_images(images, "training")
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
