"""Mutual consistency (SMU-Net, ACN): two networks learn together and pull each other's probabilities."""

from __future__ import annotations

from torch import Tensor

from nnunetv2_mstkd.losses.precision import full_precision

# Length of the consistency's ramp in both releases (of 250 and 300 epochs), for schedules.sigmoid_rampup.
RAMP_EPOCHS = 20


@full_precision
def mutual_consistency_loss(*, student: Tensor, teacher: Tensor, regions: bool) -> Tensor:
    """Sum over foreground channels of the mean squared difference of probabilities.

    Nothing is detached, as released: the teacher is pulled towards the student as well. Whoever does not want
    that gives the teacher's logits detached. The background of label heads is left out, as released.

    Args:
        student: logits (B, K, ...).
        teacher: the same.
        regions: heads are regions (sigmoid) instead of labels (softmax, background first).
    """
    difference = probabilities(student, regions) - probabilities(teacher, regions)
    foreground = difference if regions else difference[:, 1:]
    return foreground.square().transpose(0, 1).flatten(1).mean(1).sum()


def probabilities(logits: Tensor, regions: bool) -> Tensor:
    """Probabilities (B, K, ...) of all heads: sigmoid (regions) or softmax (labels)."""
    return logits.sigmoid() if regions else logits.softmax(1)
