"""Segmentation losses of RFNet's released code, which mmFormer and M2FTrans use unchanged.

The trainers take nnU-Net's losses; these are for comparison with the released numbers. Both take
probabilities after the softmax, and the target as a channel of zeros and ones per class, background included.
"""

from __future__ import annotations

from torch import Tensor

from nnunetv2_mstkd.losses.precision import full_precision

_SMALLEST_PROBABILITY = 0.005
_EPS = 1e-7


@full_precision
def weighted_cross_entropy(*, probabilities: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy, mean over samples and voxels, with classes weighted by 1 − their share of the sample.

    Probabilities below 0.005 count as that much, and get no gradient.

    Args:
        probabilities: (B, K, ...).
        target: (B, K, ...), one-hot.
    """
    p, t = probabilities.flatten(2), target.flatten(2)
    counts = t.sum(2, keepdim=True)
    weights = 1 - counts / counts.sum(1, keepdim=True)
    return -(weights * t * p.clamp(_SMALLEST_PROBABILITY, 1).log()).sum(1).mean()


@full_precision
def soft_dice(*, probabilities: Tensor, target: Tensor) -> Tensor:
    """1 − mean over classes of 2·Σpt / (Σp + Σt + 1e-7), sums over the whole batch.

    A class that the batch does not have costs 1/K whatever is predicted.

    Args:
        probabilities: (B, K, ...).
        target: (B, K, ...), one-hot.
    """
    p, t = (x.transpose(0, 1).flatten(1) for x in (probabilities, target))
    return 1 - (2 * (p * t).sum(1) / (p.sum(1) + t.sum(1) + _EPS)).mean()
