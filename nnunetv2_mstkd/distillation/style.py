"""Style (GSME): Gram matrices across scales, and the adversarial pair of losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_mstkd.distillation.numerics import in_float32, relative_error

_OFFICIAL_SCALE = 1e-4
_TINY = 1e-12


def _official_cross_gram(a: Tensor, b: Tensor) -> Tensor:
    """(B·C, B·C), divided by the number of elements: across the batch, as released."""
    return a.flatten(0, 1).flatten(1) @ b.flatten(0, 1).flatten(1).T / a.numel()


def _cross_gram(a: Tensor, b: Tensor) -> Tensor:
    """Gram matrix (B, C, C) between two feature maps of unit root mean square, per sample.

    With f̂ = f / rms(f) and n voxels, G = f̂_a f̂_bᵀ / n has entries of the order of one: the scale of the
    features and the size of the patch cancel.
    """
    unit_a, unit_b = (x.flatten(2) / _rms(x) for x in (a, b))
    return unit_a @ unit_b.transpose(1, 2) / unit_a.shape[2]


def _rms(x: Tensor) -> Tensor:
    return x.flatten(1).square().mean(1).clamp_min(_TINY).sqrt()[:, None, None]


@in_float32
def gram_matching_loss(
    *, student: Sequence[Tensor], teacher: Sequence[Tensor], variant: str = "default"
) -> Tensor:
    """Match the Gram matrices between each scale and the one before it (the first with the last).

    Args:
        student: encoded, style and content features, each (B, C, ...) of one shape.
        teacher: same shapes.
        variant: ``official`` is the released ``get_GS_loss``: pairs (0, last), (1, 0), (2, 1), Gram matrices
            across the batch, the squared difference divided by 4·C²·(H·W)² (two of three axes) and multiplied
            by 1e-4, neither side detached. That is about 1e-10 on any real features, and the call is
            commented out. ``default`` takes per-sample Gram matrices of features with unit root mean square
            and their relative error, in [0, 2], averaged over the pairs, the teacher detached: it vanishes
            only when the channel correlations agree, and equals 1 when they have nothing in common.
    """
    pairs = range(len(student))  # index i - 1 wraps round to the last at i = 0, as released
    if variant == "official":
        height, width = student[0].shape[2:4]
        divisor = 4 * student[0].shape[1] ** 2 * (height * width) ** 2
        errors = [
            (
                _official_cross_gram(student[i], student[i - 1])
                - _official_cross_gram(teacher[i], teacher[i - 1])
            )
            .square()
            .sum()
            for i in pairs
        ]
        return torch.stack(errors).sum() / divisor * _OFFICIAL_SCALE
    errors = [
        relative_error(_cross_gram(student[i], student[i - 1]), _cross_gram(teacher[i], teacher[i - 1]))
        for i in pairs
    ]
    return torch.stack(errors).mean()


@in_float32
def style_discriminator_loss(*, student: Tensor, teacher: Tensor, variant: str = "default") -> Tensor:
    """What the discriminator minimises: teacher (full modalities) is 0, student (incomplete) is 1.

    Args:
        student: the discriminator's logits for the student's style features, any shape.
        teacher: for the teacher's.
        variant: both sum two binary cross entropies, without a factor of one half (REFERENCE 1.3).
    """
    return F.binary_cross_entropy_with_logits(
        teacher, torch.zeros_like(teacher)
    ) + F.binary_cross_entropy_with_logits(student, torch.ones_like(student))


@in_float32
def style_adversarial_loss(*, student: Tensor, variant: str = "default") -> Tensor:
    """What the student minimises: that the discriminator takes its style for a full input's (label 0).

    Args:
        student: the discriminator's logits for the student's style features.
        variant: the same in both.
    """
    return F.binary_cross_entropy_with_logits(student, torch.zeros_like(student))
