"""Logit distillation: standardised KL divergence and consistency of probabilities (DMLD), foreground KL."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_mstkd.losses.pairs import is_official, matched_pairs
from nnunetv2_mstkd.losses.precision import full_precision

OFFICIAL_TEMPERATURE = 7.0  # docs/fidelity.md
REGION_TEMPERATURE = 2.0  # pilot, docs/fidelity.md
# A z-score over K classes stays within (K-1)/√K (1.5 for K = 4): already soft. A higher temperature would
# only flatten it towards a mean squared error of z-scores.
LABEL_TEMPERATURE = 1.0

_OFFICIAL_EPS = 1e-7
_TINY = 1e-6  # a voxel or so of foreground probability
# Bounds the gradient where all classes have the same logit; trained logits spread over several units.
_EPS = 1e-3


@full_precision
def standardised_kl_loss(
    *,
    student: Tensor,
    teacher: Tensor,
    variant: str = "default",
    regions: bool = False,
    temperature: float | None = None,
) -> Tensor:
    """KL divergence of the class distributions at temperature T, times T² ("SLKD", arXiv 2403.01427).

    ``default``: KL(teacher ‖ student), the teacher detached. Label heads: softmax over the logits' z-scores
    over the class axis, summed over classes, mean over batch and voxels. With two classes a z-score keeps
    nothing but the sign, so those stay raw. Region heads: Bernoulli KL on raw logits, for the same reason;
    mean over batch, channels and voxels.

    ``official`` (docs/fidelity.md): z-scores over the *last spatial axis*, softmax over
    channels, KL(student ‖ teacher), nothing detached, sum over everything divided by the batch size and by
    the number of logits. ``regions`` makes no difference.

    Args:
        student: logits (B, K, ...), any number of spatial axes.
        teacher: the same.
        variant: ``default`` or ``official``.
        regions: heads are independent (sigmoid) instead of exclusive (softmax).
        temperature: T; by default 7 (official), 2 (regions), 1 (labels).
    """
    ((student, teacher),) = matched_pairs(student, teacher, variant)
    if is_official(variant):
        return _official_kl(student, teacher, temperature or OFFICIAL_TEMPERATURE)
    if regions:
        return _bernoulli_kl(student, teacher, temperature or REGION_TEMPERATURE)
    return _categorical_kl(student, teacher, temperature or LABEL_TEMPERATURE)


@full_precision
def consistency_loss(
    *,
    student: Tensor,
    teacher: Tensor,
    variant: str = "default",
    regions: bool = False,
    background_channel: int | None = None,
) -> Tensor:
    """Mean squared error of probabilities (docs/fidelity.md).

    ``default``: mean over all channels of softmax (labels) or sigmoid (regions); the teacher detached.

    ``official``: sigmoid in any case, *sum* over channels of their mean squared errors, without the
    background channel (the released code puts a Dice of the teacher there, see ``official_dice``), nothing
    detached.

    Args:
        student: logits (B, K, ...).
        teacher: the same.
        variant: ``default`` or ``official``.
        regions: heads are independent (sigmoid) instead of exclusive (softmax).
        background_channel: for ``official``, index of the background head; ``None`` if there is none.
    """
    ((student, teacher),) = matched_pairs(student, teacher, variant)
    if not is_official(variant):
        probabilities = torch.sigmoid if regions else _softmax
        return F.mse_loss(probabilities(student), probabilities(teacher))
    error = (student.sigmoid() - teacher.sigmoid()).square().transpose(0, 1).flatten(1).mean(1)
    if background_channel is None:
        return error.sum()
    return error.sum() - error[background_channel]


@full_precision
def foreground_kl_loss(*, student: Tensor, teacher: Tensor, regions: bool = False) -> Tensor:
    """KL(teacher ‖ student) of the probabilities, the teacher detached, weighted to the foreground.

    Each voxel counts with the largest foreground probability that either of the two gives it, without a
    gradient: else the background, on which both agree, drowns what they disagree about. The weighted mean is
    taken per sample, then the mean over samples. Label heads: categorical. Region heads: Bernoulli, their
    mean. Temperature 1.

    Args:
        student: logits (B, K, ...), any number of spatial axes.
        teacher: the same.
        regions: heads are independent (sigmoid) instead of exclusive (softmax), whose first is background.
    """
    ((student, teacher),) = matched_pairs(student, teacher, "default")
    with torch.no_grad():
        both = [torch.sigmoid(x) if regions else _softmax(x)[:, 1:] for x in (student, teacher)]
        weight = torch.maximum(*both).amax(1).flatten(1)
    if regions:
        divergence = _bernoulli_divergence(student, teacher).mean(1)
    else:
        divergence = _categorical_divergence(student, teacher)
    return ((divergence.flatten(1) * weight).sum(1) / weight.sum(1).clamp_min(_TINY)).mean()


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(1)


def _standardise(logits: Tensor, axis: int, eps: float) -> Tensor:
    """z-score over one axis, unbiased standard deviation."""
    return (logits - logits.mean(axis, keepdim=True)) / (logits.std(axis, keepdim=True) + eps)


def _categorical_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    if student.shape[1] > 2:
        student, teacher = _standardise(student, 1, _EPS), _standardise(teacher, 1, _EPS)
    return _categorical_divergence(student / temperature, teacher / temperature).mean() * temperature**2


def _bernoulli_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return _bernoulli_divergence(student / temperature, teacher / temperature).mean() * temperature**2


def _categorical_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student) of each voxel's classes: (B, K, ...) → (B, ...)."""
    log_student, log_teacher = (x.log_softmax(1) for x in (student, teacher))
    return (log_teacher.exp() * (log_teacher - log_student)).sum(1)


def _bernoulli_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student) of each head in each voxel, (B, K, ...)."""
    inside = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    outside = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return inside + outside


def _official_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_student, log_teacher = (
        (_standardise(x, -1, _OFFICIAL_EPS) / temperature).log_softmax(1) for x in (student, teacher)
    )
    per_sample = F.kl_div(log_teacher, log_student.exp(), reduction="batchmean")
    return per_sample * temperature**2 / student.numel()
