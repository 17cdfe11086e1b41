"""The same patch with more modalities must not be segmented worse than with fewer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_mstkd.losses.precision import full_precision

_SMOOTH = 1e-5  # of nnU-Net's Dice


@full_precision
def more_vs_fewer_loss(
    *, richer: Tensor, poorer: Tensor, target: Tensor, regions: bool, ignore_label: int | None = None
) -> Tensor:
    """Hinge max(0, ℓ(more) − sg ℓ(fewer)) on the losses of each sample and each class or region of it.

    Two parts are added: that of the Dice losses, and that of the cross-entropies. Region heads have a binary
    cross-entropy per region; label heads have one cross-entropy per sample. Only classes and regions that the
    patch holds count (the others' Dice is about nothing but false positives), and the mean runs over them.
    The gradient goes to ``richer`` alone.

    Source: the more-versus-fewer ranking of SimMLM (arXiv 2507.19264), which compares two patches and leads
    gradients into both; here it is one patch, per sample and region, and the poorer side is detached.

    Args:
        richer: logits (B, K, ...) of the patches with more modalities.
        poorer: the same patches with fewer.
        target: as nnU-Net's loss takes it: labels (B, 1, ...), or regions (B, K, ...) with a channel more for
            what is to be ignored.
        regions: heads are independent (sigmoid) instead of exclusive (softmax).
        ignore_label: voxels of this label do not count; with regions any number says that there is one.
    """
    truth, valid = _truth(target, richer, regions, ignore_label)
    more = _losses(richer, truth, valid, regions)
    with torch.no_grad():
        fewer = _losses(poorer, truth, valid, regions)
    held = (truth * valid).flatten(2).sum(2) > 0
    if not regions:
        held = held[:, 1:]
    dice, entropy = (F.relu(m - f) for m, f in zip(more, fewer, strict=True))
    return _mean_of(dice, held) + (_mean_of(entropy, held) if regions else entropy.mean())


def _truth(target: Tensor, logits: Tensor, regions: bool, ignore_label: int | None) -> tuple[Tensor, Tensor]:
    """One channel of zeros and ones per head, and where voxels count (B, 1, ...)."""
    if regions:
        truth = target[:, : logits.shape[1]].float()
        ignored = target[:, -1:].bool() if ignore_label is not None else torch.zeros_like(truth[:, :1]).bool()
        return truth, (~ignored).float()
    valid = torch.ones_like(target, dtype=torch.bool) if ignore_label is None else target != ignore_label
    labels = torch.where(valid, target, 0).long()
    return torch.zeros_like(logits).scatter_(1, labels, 1), valid.float()


def _losses(logits: Tensor, truth: Tensor, valid: Tensor, regions: bool) -> tuple[Tensor, Tensor]:
    """Dice losses (B, foreground heads) and cross-entropies, (B, regions) or (B,)."""
    probabilities = logits.sigmoid() if regions else logits.softmax(1)
    first = 0 if regions else 1
    p, t = (x[:, first:].mul(valid).flatten(2) for x in (probabilities, truth))
    overlap, size = (p * t).sum(2), p.sum(2) + t.sum(2)
    dice = 1 - (2 * overlap + _SMOOTH) / (size + _SMOOTH)
    voxels = valid.flatten(2).sum(2).clamp_min(1)
    if regions:
        each = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        return dice, (each * valid).flatten(2).sum(2) / voxels
    each = -(truth * logits.log_softmax(1)).sum(1, keepdim=True)
    return dice, (each * valid).flatten(1).sum(1) / voxels[:, 0]


def _mean_of(values: Tensor, which: Tensor) -> Tensor:
    """Mean of the values (B, R) where ``which`` is true; 0 where nothing is."""
    return (values * which).sum() / which.sum().clamp_min(1)
