"""The released code's Dice losses, quirks included; only the ``official`` variant uses them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nnunetv2_mstkd.losses.precision import full_precision

_EPS = 1e-7


def official_dice_losses(probabilities: Tensor, target: Tensor) -> Tensor:
    """1 − 2·Σpt / (Σp² + Σt² + 1e-7) per channel, over the whole batch: (B, K, ...) twice → (K,).

    A channel that is empty on both sides has loss 1.
    """
    p, t = (x.transpose(0, 1).flatten(1) for x in (probabilities, target))
    return 1 - 2 * (p * t).sum(1) / (p.square().sum(1) + t.square().sum(1) + _EPS)


@full_precision
def head_dice_losses(*, logits: Tensor, target: Tensor | Sequence[Tensor], regions: bool) -> Tensor:
    """Dice loss of every head's sigmoid: (K,).

    Args:
        logits: (B, K, ...).
        target: as nnU-Net's losses take it, see :func:`binary_target`.
        regions: heads are regions.
    """
    binary, counted = binary_target(target, logits.shape[1], regions)
    probabilities = logits.sigmoid()
    return official_dice_losses(probabilities * counted, binary.to(probabilities.dtype) * counted)


def official_student_dice(student: Tensor, teacher: Tensor, background_channel: int) -> Tensor:
    """Sum of the student's Dice losses, in which the *teacher's* stands for the background's.

    So the released code has it (docs/fidelity.md): the student's background head learns from no Dice.

    Args:
        student: Dice loss per head (K,).
        teacher: the same.
        background_channel: index of the background head.
    """
    return student.sum() - student[background_channel] + teacher[background_channel]


def binary_target(target: Tensor | Sequence[Tensor], num_heads: int, regions: bool) -> tuple[Tensor, Tensor]:
    """One binary channel per head (B, K, ...), and where the target counts (B, 1, ...).

    Args:
        target: labels (B, 1, ...), of which those above the last head are ignored; or binary channels
            (B, K, ...), after which nnU-Net puts one more for regions with an ignore label, 1 where to
            ignore. With deep supervision a list, of which the first counts.
        num_heads: K.
        regions: heads are regions.
    """
    first = target if isinstance(target, Tensor) else target[0]
    if regions or first.shape[1] == num_heads:
        ignored = first[:, num_heads:].bool().any(1, keepdim=True)
        return first[:, :num_heads], ~ignored
    heads = torch.arange(num_heads, device=first.device).view(1, -1, *[1] * (first.ndim - 2))
    one_hot = first == heads
    return one_hot, one_hot.any(1, keepdim=True)
