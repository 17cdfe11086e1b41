"""Segmentation and consistency as the released code computes them, background quirk included."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnunetv2_mstkd.distillation.logits import consistency_loss

_EPSILON = 1e-7


def official_dice_losses(probabilities: Tensor, target: Tensor) -> Tensor:
    """Dice loss of every channel (K,), the whole batch flattened together (REFERENCE 1.3).

    1 - 2Σpt / (Σp² + Σt² + 1e-7), so a channel that is empty on both sides has loss 1.

    Args:
        probabilities: (B, K, ...).
        target: same shape, 0 or 1.
    """
    p, t = (x.float().transpose(0, 1).flatten(1) for x in (probabilities, target))
    return 1 - 2 * (p * t).sum(1) / (p.square().sum(1) + t.square().sum(1) + _EPSILON)


class OfficialSegmentation:
    """The Dice and consistency terms of ``unet_Co_loss`` (regions) and ``unet_Co_loss_divide`` (labels).

    With a background channel, the student's background takes part in neither: in its Dice sum and in the
    consistency stands the *teacher's* background Dice instead (REFERENCE 1.5, item 4).

    Args:
        background_channel: of label heads; ``None`` for regions.
    """

    def __init__(self, background_channel: int | None) -> None:
        self.background_channel = background_channel

    def teacher(self, logits: Tensor, target: Any) -> Tensor:
        """Sum of the teacher's Dice losses over all channels."""
        return self._dice(logits, target).sum()

    def student(self, student: Tensor, teacher: Tensor, target: Any) -> Tensor:
        """Sum of the student's foreground Dice losses, and of the teacher's for the background."""
        losses = self._dice(student, target)
        if self.background_channel is None:
            return losses.sum()
        return losses[self._foreground(student)].sum() + self._background_dice(teacher, target)

    def consistency(self, student: Tensor, teacher: Tensor, target: Any) -> Tensor:
        """Sum of the foreground channels' mean squared errors, plus the teacher's background Dice loss."""
        if self.background_channel is None:
            return consistency_loss(student=student, teacher=teacher, variant="official")
        foreground = self._foreground(student)
        error = consistency_loss(
            student=student[:, foreground], teacher=teacher[:, foreground], variant="official"
        )
        return error + self._background_dice(teacher, target)

    def _background_dice(self, teacher: Tensor, target: Any) -> Tensor:
        return self._dice(teacher, target)[self.background_channel]

    def _foreground(self, logits: Tensor) -> list[int]:
        background = self.background_channel % logits.shape[1]
        return [channel for channel in range(logits.shape[1]) if channel != background]

    @staticmethod
    def _dice(logits: Tensor, target: Any) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            return official_dice_losses(torch.sigmoid(logits.float()), _one_hot(target, logits.shape[1]))


def _one_hot(target: Any, channels: int) -> Tensor:
    """Label map (B, 1, ...) as (B, ``channels``, ...) of 0 and 1; a target that has the channels stays."""
    target = target[0] if isinstance(target, (list, tuple)) else target
    if target.shape[1] == channels:
        return target.float()
    labels = torch.arange(channels, device=target.device).view(1, -1, *([1] * (target.ndim - 2)))
    return (target == labels).float()
