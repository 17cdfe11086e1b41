"""A transposed convolution and the convolution behind it are one linear map: run them as one.

With nothing between them, a 2×2×2 transposed convolution of stride 2 (U) followed by a 3×3×3 convolution (K)
is a transposed convolution of stride 2 with the 4×4×4 kernel M = K ⋆ U. Per voxel of the result it multiplies
8·C_in·C_out times instead of C_in·C + 27·C·C_out, and the map between the two is never stored.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from nnunetv2_mstkd.architectures.without_gradients import no_gradients

_CONVOLUTION: dict[int, Callable[..., Tensor]] = {2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {2: F.conv_transpose2d, 3: F.conv_transpose3d}
# The merged kernel is large: reading it must save so many multiplications per value, or it is slower.
_SAVED_PER_WEIGHT = 100


class MergedUpsampling:
    """Runs a transposed convolution (kernel and stride 2) and a convolution (kernel 3, padding 1) behind it.

    They run as one on a CPU where no gradient is asked for and that is faster. The merged kernel is kept
    until the weights change; it is in no state and in no copy of the network.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Let the merged kernel go."""
        self._key: Any = None
        self._value: Any = None

    def __call__(self, up: _ConvTransposeNd, conv: _ConvNd, x: Tensor) -> Tensor:
        """``conv(up(x))``: (B, C_in, n, ...) → (B, C_out, 2n, ...)."""
        # Only where it was measured. On the meta device shapes are asked for, by hooks on the layers; on a
        # GPU nnU-Net's predictor makes weights that do not tell when they change: a merge in every pass.
        if x.device.type != "cpu" or not no_gradients() or not _worth_merging(up, conv, x):
            return conv(up(x))
        kernel, bias = self._merged(up, conv)
        y = _TRANSPOSED[x.ndim - 2](x, kernel, stride=2, padding=1)
        return y.add_(_spread(bias, y.shape[2:]))

    def _merged(self, up: _ConvTransposeNd, conv: _ConvNd) -> tuple[Tensor, Tensor]:
        sources = [t for t in (up.weight, up.bias, conv.weight, conv.bias) if t is not None]
        if any(source.is_inference() for source in sources):
            return _merge(up, conv)  # such tensors do not tell when they change
        key = [(s.data_ptr(), s._version, s.device, s.dtype) for s in sources]
        if key != self._key:
            self._key, self._value = key, _merge(up, conv)
        return self._value

    def __deepcopy__(self, memo: dict[int, Any]) -> MergedUpsampling:
        return MergedUpsampling()

    def __reduce__(self) -> tuple[type[MergedUpsampling], tuple[()]]:
        return MergedUpsampling, ()


def _merge(up: _ConvTransposeNd, conv: _ConvNd) -> tuple[Tensor, Tensor]:
    """Merged kernel (C_in, C_out, 4, ...), and the bias (1, C_out, 3, ...) at and between the borders.

    Beyond the border the convolution sees zeros instead of the transposed convolution's bias, so what that
    bias becomes depends on whether a voxel is the first, the last or between.
    """
    axes = up.weight.ndim - 2
    convolve = _CONVOLUTION[axes]
    # Full precision under autocast too: this is done once, and what it gives is rounded later anyway.
    with torch.autocast(up.weight.device.type, enabled=False):
        kernel = convolve(up.weight, conv.weight, padding=2)
        bias = up.weight.new_zeros(up.out_channels) if up.bias is None else up.bias
        flat = bias.view(1, -1, *[1] * axes).expand(1, -1, *[3] * axes)
        return kernel, convolve(flat, conv.weight, conv.bias, padding=1)


def _worth_merging(up: _ConvTransposeNd, conv: _ConvNd, x: Tensor) -> bool:
    axes = x.ndim - 2
    entering, between, leaving = up.in_channels, up.out_channels, conv.out_channels
    apart = entering * between + 3**axes * between * leaving
    saved = (apart - 2**axes * entering * leaving) * x.shape[0] * prod(x.shape[2:]) * 2**axes
    return saved > _SAVED_PER_WEIGHT * entering * leaving * 4**axes


def _spread(bias: Tensor, size: torch.Size) -> Tensor:
    """(1, C, 3, ...) → (1, C, *size): first voxel, all between, last voxel of every axis."""
    for axis, length in enumerate(size, start=2):
        index = torch.ones(length, dtype=torch.long, device=bias.device)
        index[0], index[-1] = 0, 2
        bias = bias.index_select(axis, index)
    return bias
