"""The regulariser: a residual dense network over images (Eqs. 18-23)."""

import torch
from torch import Tensor, nn

from trainer.networks.noise_level import noise_level


class ResidualDenseBlock(nn.Module):
    """Densely connected 3x3 convolutions, fused by a 1x1 convolution and a local skip (Eqs. 20, 21).

    Parameters
    ----------
    features : int
        Channels F_R of input and output.
    growth : int
        Channels F_S that each layer adds.
    layers : int
        Number n_conv of 3x3 layers.
    """

    def __init__(self, features: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(features + index * growth, growth, 3, padding=1) for index in range(layers)
        )
        self.fuse = nn.Conv2d(features + layers * growth, features, 1)

    def forward(self, u: Tensor) -> Tensor:
        """Map features (B, F_R, H, W) to features of the same shape."""
        dense = [u]
        for layer in self.layers:
            dense.append(torch.relu(layer(torch.cat(dense, dim=1))))
        fused: Tensor = self.fuse(torch.cat(dense, dim=1))
        return fused + u


class ResidualDenseNetwork(nn.Module):
    """Psi_RDN: the proximal map of the learned image prior (Eqs. 18-23).

    Follows the released network where the paper is silent or differs: four layers per block, a 3x3
    convolution and a global skip after the fusion, no activation outside the blocks.

    Parameters
    ----------
    features : int, optional
        Channels F_R.
    growth : int, optional
        Channels F_S that each dense layer adds.
    blocks : int, optional
        Number n_res of residual dense blocks.
    layers : int, optional
        Dense layers per block.
    takes_noise : bool, optional
        Whether the network sees the noise level of the measurement, as a second, constant image.
    """

    def __init__(
        self,
        features: int = 12,
        growth: int = 12,
        blocks: int = 4,
        layers: int = 4,
        *,
        takes_noise: bool = False,
    ) -> None:
        super().__init__()
        self.takes_noise = takes_noise
        self.entry = nn.Conv2d(2 if takes_noise else 1, features, 3, padding=1)
        self.shallow = nn.Conv2d(features, features, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualDenseBlock(features, growth, layers) for _ in range(blocks))
        self.fuse = nn.Conv2d(blocks * features, features, 1)
        self.merge = nn.Conv2d(features, features, 3, padding=1)
        self.exit = nn.Conv2d(features, 1, 3, padding=1)

    def forward(self, v: Tensor, noise: Tensor | None = None) -> Tensor:
        """Regularise images.

        Parameters
        ----------
        v : Tensor, shape (B, 1, H, W)
            x - d1, intensities of peak about 1.
        noise : Tensor, shape (B, 1, 1, 1)
            Standard deviation of the measurement's real rows in normalised units. A network that does not
            take it ignores it; one that does needs it.

        Returns
        -------
        Tensor, shape (B, 1, H, W)
            z1 >= 0 (Eq. 23).
        """
        entry = self.entry(self.inputs(v, noise))
        u = self.shallow(entry)  # Eq. (18)
        outputs = []
        for block in self.blocks:  # Eq. (19)
            u = block(u)
            outputs.append(u)
        fused = self.merge(self.fuse(torch.cat(outputs, dim=1))) + entry  # Eq. (22)
        return torch.relu(self.exit(fused) + v)  # Eq. (23)

    def inputs(self, v: Tensor, noise: Tensor | None) -> Tensor:
        """Return what the first convolution sees, shape (B, 1 or 2, H, W): the image and the noise level."""
        if not self.takes_noise:
            return v
        if noise is None:
            raise TypeError("this network takes the noise level; expected a tensor of shape (B, 1, 1, 1)")
        return torch.cat([v, noise_level(noise).expand_as(v)], dim=1)
