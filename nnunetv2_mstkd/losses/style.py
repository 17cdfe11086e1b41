"""Style matching (GSME): Gram matrices, and the adversarial game on style features."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_mstkd.losses.pairs import TensorOrLevels, is_official, matched_pairs, mean
from nnunetv2_mstkd.losses.precision import full_precision

# Orientation of the released code: 0 = style of the full input (teacher), 1 = of the incomplete (student).
FULL_LABEL, MISSING_LABEL = 0.0, 1.0

_OFFICIAL_SCALE = 1e-4
_TINY = 1e-20


@full_precision
def gram_matching_loss(
    *, student: TensorOrLevels, teacher: TensorOrLevels, variant: str = "default"
) -> Tensor:
    """Difference of cross-scale Gram matrices: which channels of neighbouring maps respond together.

    Map i is paired with map i − 1, the first with the last; a single map gives its ordinary Gram matrix.

    ``official`` (``get_GS_loss``, for a single map ``get_style_loss``; docs/fidelity.md): batch and channels
    form one axis, G = F Fᵀ / (B·C·X·Y·Z), and the summed squared difference is divided by
    4·C²·(X·Y)² and multiplied by 1e-4; sum over pairs, nothing detached. About 1e-10 or less.

    ``default``: ¼·‖G_student − G_teacher‖² (Frobenius) with G = F̂ F̂'ᵀ / (√(C·C')·N) per sample, F̂ the map
    divided by its own root mean square, N the number of positions; mean over pairs and samples; the teacher
    detached.

    Where that scale comes from: Gatys et al. divide ‖F Fᵀ − F' F'ᵀ‖² by 4·C²·N², which is ¼ of the squared
    difference of Gram matrices that are each divided by C·N. The released code divides by C·N inside *and*
    by C²·(X·Y)² outside, so twice; with 128 channels of 20×24×16 that and the 1e-4 cost 14 orders of
    magnitude. Here the division is done once. With maps of unit root mean square, Cauchy-Schwarz gives
    ‖G‖ ≤ 1, so the value is in [0, 1] for any number of channels, positions and any scale of features.

    Args:
        student: maps (B, C, ...) of equal spatial size, or one.
        teacher: the same.
        variant: ``default`` or ``official``.
    """
    pairs = matched_pairs(student, teacher, variant)
    student_maps, teacher_maps = zip(*pairs, strict=True)
    if is_official(variant):
        return _official_gram_loss(student_maps, teacher_maps)
    grams = zip(_cross_grams(student_maps), _cross_grams(teacher_maps), strict=True)
    return mean([0.25 * (s - t).square().sum((1, 2)).mean() for s, t in grams])


@full_precision
def style_adversarial_loss(*, student: Tensor, variant: str = "default") -> Tensor:
    """What the student pays when the discriminator recognises its style; 0 when it passes for full.

    Binary cross-entropy of the discriminator's logit against label 0 (full). Both variants are the same;
    the teacher has no part in it.

    Args:
        student: discriminator logits of the student's style, any shape.
        variant: ``default`` or ``official``.
    """
    is_official(variant)
    return _cross_entropy(student, FULL_LABEL)


@full_precision
def style_discriminator_loss(*, student: Tensor, teacher: Tensor, variant: str = "default") -> Tensor:
    """Loss of the discriminator: teacher's style is 0 (full), student's is 1 (missing).

    Sum of the two binary cross-entropies, without a half (docs/fidelity.md). Both variants are the same; the
    style features must be detached before the discriminator sees them.

    Args:
        student: discriminator logits of the student's style, any shape.
        teacher: of the teacher's.
        variant: ``default`` or ``official``.
    """
    is_official(variant)
    return _cross_entropy(teacher, FULL_LABEL) + _cross_entropy(student, MISSING_LABEL)


def discriminator_loss_on_styles(
    *, student: Tensor, teacher: Tensor, discriminator: nn.Module, variant: str = "default"
) -> Tensor:
    """:func:`style_discriminator_loss` from the style features; neither network gets a gradient.

    Args:
        student: style features of the student (B, C, ...).
        teacher: of the teacher.
        discriminator: one logit per sample from style features.
        variant: ``default`` or ``official``.
    """
    styles = torch.cat((student, teacher)).detach().float()
    with torch.autocast(styles.device.type, enabled=False):
        # One forward for both: DDP allows only one before the backward.
        of_student, of_teacher = discriminator(styles).chunk(2)
    return style_discriminator_loss(student=of_student, teacher=of_teacher, variant=variant)


def official_gram(first: Tensor, second: Tensor) -> Tensor:
    """The released code's Gram matrix of two maps (B, C, ...): (B·C, B·C), divided by B·C·positions."""
    return first.flatten(2).flatten(0, 1) @ second.flatten(2).flatten(0, 1).T / first.numel()


def _official_gram_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    losses = []
    for i, (s, t) in enumerate(zip(student_maps, teacher_maps, strict=True)):
        difference = official_gram(s, student_maps[i - 1]) - official_gram(t, teacher_maps[i - 1])
        # The released code takes only the first two spatial axes here (4·C²·(H·W)²).
        size = 4 * s.shape[1] ** 2 * prod(s.shape[2:4]) ** 2
        losses.append(difference.square().sum() / size * _OFFICIAL_SCALE)
    return torch.stack(losses).sum()


def _cross_grams(maps: Sequence[Tensor]) -> list[Tensor]:
    """(B, C, C') for every pair (i, i − 1) of maps, each of Frobenius norm at most 1."""
    flat = [_unit_rms(m.flatten(2)) for m in maps]
    return [
        flat[i]
        @ flat[i - 1].transpose(1, 2)
        / (sqrt(flat[i].shape[1] * flat[i - 1].shape[1]) * flat[i].shape[2])
        for i in range(len(flat))
    ]


def _unit_rms(features: Tensor) -> Tensor:
    """(B, C, N) with a root mean square of 1 in every sample."""
    return features * features.square().mean((1, 2), keepdim=True).clamp_min(_TINY).rsqrt()


def _cross_entropy(logit: Tensor, label: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logit, torch.full_like(logit, label))
