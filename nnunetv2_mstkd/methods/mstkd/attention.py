"""Attention extremes: the peaks, troughs and averages of attention over the tapped layers (MS-TKD)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_mstkd.losses.pairs import bounded_relative_error, is_official, matched_pairs, mean
from nnunetv2_mstkd.losses.precision import full_precision


@full_precision
def attention_extremes_loss(
    *, student: Sequence[Tensor], teacher: Sequence[Tensor], variant: str = "default"
) -> Tensor:
    """Difference of attention maps, each weighted by the extremes over all tapped layers.

    With P_l the maps of one network and X their element-wise maximum, minimum or mean over the layers, the
    compared quantities are the 3·L products X ∘ P_l (MST-KDNet's "EVD", docs/fidelity.md).

    ``official``: sum of their 3·L mean squared errors, nothing detached. Near uniform attention P is about
    1/N, so the value shrinks as N⁻⁴ with the number of tokens N (see :meth:`ObjectiveConfig.official`).

    ``default``: mean over the 3·L products of :func:`bounded_relative_error`. Every P is multiplied by N
    first (uniform attention becomes 1, safe to square). Relative to the teacher's energy no power of N is
    left, for uniform and for peaked attention alike; the value is in [0, 1); the teacher is detached.

    Args:
        student: one (B, heads, N, N) per tapped layer, rows summing to 1.
        teacher: the same.
        variant: ``default`` or ``official``.
    """
    pairs = matched_pairs(student, teacher, variant)
    official = is_official(variant)
    unit = 1 if official else pairs[0][0].shape[-1]
    products = zip(
        _extreme_products([s * unit for s, _ in pairs]),
        _extreme_products([t * unit for _, t in pairs]),
        strict=True,
    )
    if official:
        return torch.stack([F.mse_loss(s, t) for s, t in products]).sum()
    return mean([bounded_relative_error(s, t) for s, t in products])


def _extreme_products(maps: Sequence[Tensor]) -> Iterator[Tensor]:
    """Every map times the maximum, then the minimum, then the mean over maps."""
    stacked = torch.stack(list(maps))
    for extreme in (stacked.max(0).values, stacked.min(0).values, stacked.mean(0)):
        for attention in maps:
            yield attention * extreme
