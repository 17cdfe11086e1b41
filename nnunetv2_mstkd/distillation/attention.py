"""Attention extremes ("EVD" in the released code), half of MS-TKD."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nnunetv2_mstkd.distillation.numerics import in_float32, relative_error


def _extreme_maps(attention: Sequence[Tensor]) -> Tensor:
    """Every layer's map times the element-wise max, min and mean over the layers: (3·L, B, heads, N, N)."""
    maps = torch.stack(list(attention))
    extremes = torch.stack((maps.amax(0), maps.amin(0), maps.mean(0)))
    return (extremes[:, None] * maps[None]).flatten(0, 1)


@in_float32
def attention_extremes_loss(
    *, student: Sequence[Tensor], teacher: Sequence[Tensor], variant: str = "default"
) -> Tensor:
    """Compare attention maps through their extremes over the layers.

    Args:
        student: attention probabilities of the tapped layers, each (B, heads, N, N).
        teacher: same shapes.
        variant: ``official`` is the sum of 3·L mean squared errors, neither side detached (REFERENCE 1.3,
            L_EVD); it falls with the fourth power of N, which the published weight of 1e8 undoes for N = 120
            only. ``default`` takes the relative error of each of the 3·L products, averaged: in [0, 2], the
            same for any number of tokens, the teacher detached.
    """
    ours, theirs = _extreme_maps(student), _extreme_maps(teacher)
    if variant == "official":
        return (ours - theirs).square().flatten(1).mean(1).sum()
    return torch.stack([relative_error(s, t) for s, t in zip(ours, theirs, strict=True)]).mean()
