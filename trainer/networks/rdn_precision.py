"""Psi_RDN in another precision for fixed-point solves: its values and vector-Jacobian products.

A solve needs no gradient for the weights. Here the products with the transposed Jacobian are written out with
the convolutions of the forward direction, which are the fast ones in bfloat16. The skip around the network
(Eq. 23) stays in the precision of the image, so that only the correction is rounded.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from trainer.networks.rdn import ResidualDenseBlock, ResidualDenseNetwork


class _Convolution:
    """A convolution with stride 1 that keeps the size, in one precision."""

    def __init__(self, layer: nn.Conv2d, dtype: torch.dtype) -> None:
        self._weight = _cast(layer.weight, dtype)
        self._bias = None if layer.bias is None else layer.bias.detach().to(dtype)
        self._padding = layer.kernel_size[0] // 2

    def __call__(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self._weight, self._bias, padding=self._padding)


class _ReversibleConvolution(_Convolution):
    """A convolution with its adjoint."""

    def __init__(self, layer: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__(layer, dtype)
        self._adjoint_weight = _cast(_reversed(layer.weight), dtype)

    def adjoint(self, g: Tensor) -> Tensor:
        return functional.conv2d(g, self._adjoint_weight, padding=self._padding)


def _cast(kernel: Tensor, dtype: torch.dtype) -> Tensor:
    return kernel.detach().to(dtype).contiguous(memory_format=torch.channels_last)


def _reversed(kernel: Tensor) -> Tensor:
    """Return the kernel of the adjoint of a convolution."""
    return kernel.flip(2, 3).transpose(0, 1)


class _DenseBlock:
    """A `ResidualDenseBlock`.

    Its adjoint is a dense block too: the cotangent of each part of the concatenation is one convolution of
    the cotangents of all that come after it. No part is sliced out of a larger tensor, which would cost more
    than the convolutions.
    """

    def __init__(self, block: ResidualDenseBlock, dtype: torch.dtype) -> None:
        self._layers = [_Convolution(layer, dtype) for layer in block.layers]  # type: ignore[arg-type]
        self._fuse = _Convolution(block.fuse, dtype)
        self._adjoint_weights = _adjoint_weights(block, dtype)

    def __call__(self, u: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the block's output and, for the adjoint, what each layer added."""
        dense, added = u, []
        for layer in self._layers:
            added.append(torch.relu_(layer(dense)))
            dense = torch.cat([dense, added[-1]], dim=1)
        return self._fuse(dense) + u, added

    def adjoint(self, g: Tensor, added: list[Tensor]) -> Tensor:
        dense = g
        *weights, last = self._adjoint_weights
        for weight, grown in zip(weights, reversed(added), strict=True):
            part = functional.conv2d(dense, weight, padding=1)
            dense = torch.cat([dense, _through_relu(part, grown)], dim=1)
        return functional.conv2d(dense, last, padding=1) + g


def _adjoint_weights(block: ResidualDenseBlock, dtype: torch.dtype) -> list[Tensor]:
    """Return the kernels of the adjoint, for what the last layer added first and for the block's input last.

    Inputs of each: the cotangents of the output, then of the layers from the last one down.
    """
    kernels = [functional.pad(block.fuse.weight.detach(), (1, 1, 1, 1))]  # 1x1 in the middle of 3x3
    layers = [layer.weight.detach() for layer in block.layers if isinstance(layer, nn.Conv2d)]
    kernels += reversed(layers)
    ends = [layers[0].shape[1]]  # where each part of the concatenation ends
    for weight in layers:
        ends.append(ends[-1] + weight.shape[0])
    starts = [0, *ends[:-1]]
    weights = []
    for number in range(len(ends) - 1, -1, -1):
        readers = kernels[: len(ends) - number]
        kernel = torch.cat([reader[:, starts[number] : ends[number]] for reader in readers])
        weights.append(_cast(_reversed(kernel), dtype))
    return weights


def _through_relu(g: Tensor, output: Tensor) -> Tensor:
    """Return g where the output of a rectifier is above zero, else zero."""
    return torch.ops.aten.threshold_backward(g, output, 0)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Recorded:
    """Outputs of all rectifiers at a point: where they are above zero is all that the Jacobian depends on."""

    blocks: list[list[Tensor]]
    output: Tensor


class RdnInPrecision:
    """Psi_RDN with its convolutions in another precision; gradients reach the image only.

    Takes a copy of the weights as they are, so make a new one after each optimisation step.

    Parameters
    ----------
    rdn : ResidualDenseNetwork
    dtype : torch.dtype
        Of the convolutions.
    """

    def __init__(self, rdn: ResidualDenseNetwork, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._inputs = rdn.inputs
        self._blocks = [_DenseBlock(block, dtype) for block in rdn.blocks]  # type: ignore[arg-type]
        layers = (rdn.entry, rdn.shallow, rdn.fuse, rdn.merge, rdn.exit)
        self._entry, self._shallow, self._fuse, self._merge, self._exit = (
            _ReversibleConvolution(layer, dtype) for layer in layers
        )

    def __call__(self, v: Tensor, noise: Tensor) -> Tensor:
        """Regularise images (B, 1, H, W) at noise levels (B, 1, 1, 1); see `ResidualDenseNetwork.forward`."""
        if not torch.is_grad_enabled():
            return self._evaluate(v, noise)[0]
        regularised: Tensor = _Product.apply(v, noise, self)  # type: ignore[no-untyped-call]
        return regularised

    def _evaluate(self, v: Tensor, noise: Tensor) -> tuple[Tensor, _Recorded]:
        inputs = self._inputs(v, noise).to(self._dtype)
        entry = self._entry(inputs.contiguous(memory_format=torch.channels_last))
        u = self._shallow(entry)
        outputs, added = [], []
        for block in self._blocks:
            u, grown = block(u)
            outputs.append(u)
            added.append(grown)
        fused = self._merge(self._fuse(torch.cat(outputs, dim=1))) + entry
        regularised = torch.relu(self._exit(fused).to(v.dtype) + v)
        return regularised, _Recorded(added, regularised)

    def _adjoint(self, g: Tensor, recorded: _Recorded) -> Tensor:
        g = _through_relu(g, recorded.output)
        fused = self._exit.adjoint(g.to(self._dtype).contiguous(memory_format=torch.channels_last))
        parts = self._fuse.adjoint(self._merge.adjoint(fused)).chunk(len(self._blocks), dim=1)
        u = torch.zeros_like(parts[0])
        for block, part, added in zip(
            reversed(self._blocks), reversed(parts), reversed(recorded.blocks), strict=True
        ):
            u = block.adjoint(u + part, added)
        inputs = self._entry.adjoint(fused + self._shallow.adjoint(u))
        return g + inputs[:, :1].to(g.dtype)


class _Product(torch.autograd.Function):
    """`RdnInPrecision` with a gradient for the image."""

    @staticmethod
    def forward(ctx: FunctionCtx, v: Tensor, noise: Tensor, network: RdnInPrecision) -> Tensor:
        regularised, recorded = network._evaluate(v, noise)
        ctx.network, ctx.recorded = network, recorded  # type: ignore[attr-defined]
        return regularised

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, g: Tensor) -> tuple[Tensor, None, None]:
        return ctx.network._adjoint(g, ctx.recorded), None, None  # type: ignore[attr-defined]
