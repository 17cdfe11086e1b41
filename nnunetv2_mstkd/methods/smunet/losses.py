"""SMU-Net's own loss terms and all weights, as released: pure functions of tensors.

The others are shared: the consistency is :func:`~nnunetv2_mstkd.losses.co_training.mutual_consistency_loss`,
the game on the style features :func:`~nnunetv2_mstkd.losses.style.style_adversarial_loss` and
:func:`~nnunetv2_mstkd.losses.style.style_discriminator_loss`.
"""

from __future__ import annotations

from torch import Tensor

from nnunetv2_mstkd.losses import features, style

# ``consistency`` times sigmoid_rampup(epoch, RAMP_EPOCHS): 0.067 in the first epoch, 10 from the 20th on.
WEIGHTS = {
    "segmentation": 0.6,
    "teacher_segmentation": 0.4,
    "consistency": 10.0,
    "content": 0.2,
    "style": 1.0,
    "adversarial": 0.0002,
}


def content_loss(*, student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the content features (B, C, ...). Nothing is detached, as released."""
    return features.content_loss(student=student, teacher=teacher, variant="official")


def style_loss(*, student: Tensor, teacher: Tensor) -> Tensor:
    """Difference of the style features' Gram matrices, as released: numerically nothing.

    Three normalisations follow each other, so the value is about 1e-14 at the released size and its gradient
    is lost beside every other. Nothing is detached, and batch and channels are one axis.
    :func:`~nnunetv2_mstkd.losses.style.gram_matching_loss` in its default variant is a term that acts.

    Args:
        student: style features (B, C, ...).
        teacher: the same.
    """
    return style.gram_matching_loss(student=student, teacher=teacher, variant="official")
