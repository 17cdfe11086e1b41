"""Spatial gates of RA-HVED's segmentation decoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_mstkd.methods.rahved.layers import make_conv

_CONVOLUTION: dict[int, Callable[..., Tensor]] = {2: F.conv2d, 3: F.conv3d}
_KERNEL = 7
_PER_MAP = 4  # hidden channels that every pooled map gets


class Gate(nn.Module):
    """One value per voxel from pooled maps: a grouped 7×7×7 convolution, then one of kernel 1.

    Args:
        dims: 2 or 3.
        maps: pooled maps, a group each.
    """

    def __init__(self, dims: int, maps: int) -> None:
        super().__init__()
        self.look = make_conv(dims, maps, _PER_MAP * maps, _KERNEL, groups=maps)
        self.join = make_conv(dims, _PER_MAP * maps, 1, kernel_size=1)

    def merged(self) -> tuple[Tensor, Tensor]:
        """Kernel (1, maps, 7, ...) and bias (1,) of the one convolution that both are.

        Nothing is between the two, so they are one linear map, at the borders too; it multiplies a quarter as
        often and never holds the hidden channels.
        """
        look, join = self.look, self.join
        assert look.bias is not None
        assert join.bias is not None
        kernel = look.weight[:, 0] * join.weight[0]
        bias = (look.bias * join.weight.flatten()).sum() + join.bias
        return kernel.unflatten(0, (-1, _PER_MAP)).sum(1)[None], bias


class RegionAttention(nn.Module):
    """Emphasises where the decoder's map x and the skip s respond.

    With x̄, s̄ their maxima and means over channels::

        s' = s · (1 + gate(x̄, s̄))          x' = x · (1 + gate(x̄))

    Args:
        dims: 2 or 3.
    """

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.skip_gate = Gate(dims, 4)
        self.decoder_gate = Gate(dims, 2)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Both, weighted and joined: (B, C, ...), (B, C', ...) → (B, C + C', ...)."""
        pooled = torch.cat((*_pooled(x), *_pooled(skip)), dim=1)
        of_skip, of_decoder = self._gates(pooled).sigmoid().split(1, dim=1)
        return torch.cat((x * (1 + of_decoder), skip * (1 + of_skip)), dim=1)

    def _gates(self, pooled: Tensor) -> Tensor:
        (skip_kernel, skip_bias), (kernel, bias) = self.skip_gate.merged(), self.decoder_gate.merged()
        # The decoder's gate does not see the skip.
        kernel = torch.cat((kernel, torch.zeros_like(kernel)), dim=1)
        kernels, biases = torch.cat((skip_kernel, kernel)), torch.cat((skip_bias, bias))
        return _CONVOLUTION[pooled.ndim - 2](pooled, kernels, biases, padding=_KERNEL // 2)


def _pooled(x: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum and mean over channels, (B, 1, ...) each."""
    return x.amax(1, keepdim=True), x.mean(1, keepdim=True)
