"""Nearest upsampling that keeps half precision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def repeat_nearest(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, ...) → (B, C, *size), each voxel the nearest one of ``x``, in the precision of ``x``.

    CUDA's autocast has the operation on its float32 list, though it only copies: the finest maps of a
    decoder, and all that follows in place, would take twice the memory.
    """
    device = x.device.type
    # Only under autocast: exporters need not see it.
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return F.interpolate(x, size=tuple(size), mode="nearest")
    with torch.autocast(device, enabled=False):
        return F.interpolate(x, size=tuple(size), mode="nearest")
