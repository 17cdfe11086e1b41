"""DeMoSeg's blocks (Yang et al., BIBM 2024): nnU-Net's, and one that adds its channels in another order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.blocks import Layers

RELEASED_ORDER, FIXED_ORDER = CHANNEL_ORDERS = ("released", "fixed")


def conv_norm_nonlin(
    layers: Layers,
    in_channels: int,
    channels: int,
    kernel_size: Sequence[int],
    stride: int | Sequence[int] = 1,
) -> nn.Sequential:
    """nnU-Net's block."""
    conv = layers.conv(in_channels, channels, kernel_size, stride)
    return nn.Sequential(conv, layers.norm(channels), layers.activation())


class ShuffledBlock(nn.Module):
    """Convolution and norm, then the sum of all channels with themselves in another order: (B, C, ...) as in.

    The paper calls it channel-wise sparse self-attention. With the order that :class:`ReleasedOrder` gives::

        u = nonlin(norm(conv(x)))        y = nonlin(norm(u + u[order]))

    Args:
        layers: what to build it from.
        channels: C.
        kernel_size: per axis.
        channel_order: ``released``, or ``fixed``: one order that is drawn when the block is built.
    """

    def __init__(self, layers: Layers, channels: int, kernel_size: Sequence[int], channel_order: str) -> None:
        super().__init__()
        self.conv = layers.conv(channels, channels, kernel_size)
        self.norm1 = layers.norm_op(channels)  # without weight and bias, as released
        self.order = (ReleasedOrder if channel_order == RELEASED_ORDER else FixedOrder)(channels)
        self.norm2 = layers.norm(channels)
        self.nonlin = layers.activation()

    def forward(self, x: Tensor) -> Tensor:
        u = self.nonlin(self.norm1(self.conv(x)))
        order = self.order(u)
        # Rows of one list of channels: as fast as a copy, and so is its gradient.
        starts = torch.arange(0, u.shape[0] * u.shape[1], u.shape[1], device=u.device)
        other = u.flatten(0, 1).index_select(0, (order + starts[:, None]).flatten()).view_as(u)
        return self.nonlin(self.norm2(u + other))


class ReleasedOrder(nn.Module):
    """Channels sorted by what two linear layers make of their means, for each sample.

    An order has no gradient: the two layers stay as they are drawn, and are frozen here to say so. Released
    blocks sort by the sigmoid, some the other way round; neither matters for scores of layers that are random
    and stay so.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 4, 1)
        self.squeeze, self.excite = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.requires_grad_(False)

    def forward(self, u: Tensor) -> Tensor:
        """Order (B, C) of the channels of a map (B, C, ...)."""
        means = u.detach().flatten(2).mean(2, dtype=torch.float32)
        # In 16 bits scores are equal that differ, and their order depends on the device.
        with torch.autocast("cpu" if u.is_meta else u.device.type, enabled=False):
            return self.excite(F.leaky_relu(self.squeeze(means), 0.01)).argsort(1)


class FixedOrder(nn.Module):
    """One order for all samples, drawn when the network is built and kept in its weights.

    Args:
        channels: C.
    """

    order: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("order", torch.randperm(channels))

    def forward(self, u: Tensor) -> Tensor:
        """Order (B, C) of the channels of a map (B, C, ...)."""
        return self.order.expand(len(u), -1)
