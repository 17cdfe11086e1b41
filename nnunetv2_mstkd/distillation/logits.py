"""Logits: consistency and standardised KL, the two modes of DMLD (``SLKD`` in the ablation)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_mstkd.distillation.numerics import in_float32

_STD_EPSILON = 1e-7  # of the released code


def _standardise(logits: Tensor, dim: int) -> Tensor:
    """z-score along one axis, unbiased deviation."""
    return (logits - logits.mean(dim, keepdim=True)) / (logits.std(dim, keepdim=True) + _STD_EPSILON)


@in_float32
def standardised_kl_loss(
    *,
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    regions: bool = False,
    variant: str = "default",
) -> Tensor:
    """Kullback-Leibler divergence between softened predictions.

    Args:
        student: logits (B, K, ...).
        teacher: same shape.
        temperature: T; the divergence is multiplied by T².
        regions: the heads are independent (sigmoid), not classes of one softmax.
        variant: ``official`` computes what the released call does (REFERENCE 1.3 and 1.5, items 2 and 3):
            z-score over the last spatial axis, KL(student ‖ teacher) over the channels because the call swaps
            the arguments, batch mean, then divided by the number of logits; neither side detached.
            ``default`` is KL(teacher ‖ student), the teacher detached, averaged over voxels (and heads):
            label heads standardised over the classes (Sun et al., arXiv 2403.01427); region heads as
            Bernoulli distributions of the raw logits, because two standardised classes keep only a sign.
    """
    if variant == "official":
        p_student, p_teacher = (
            F.log_softmax(_standardise(x, -1) / temperature, dim=1) for x in (student, teacher)
        )
        kl = F.kl_div(p_teacher, p_student, reduction="batchmean", log_target=True)
        return kl * temperature**2 / student.numel()
    teacher = teacher.detach()
    if regions:
        return _bernoulli_kl(student / temperature, teacher / temperature).mean() * temperature**2
    p_student, p_teacher = (
        F.log_softmax(_standardise(x, 1) / temperature, dim=1) for x in (student, teacher)
    )
    kl = F.kl_div(p_student, p_teacher, reduction="none", log_target=True).sum(1)
    return kl.mean() * temperature**2


def _bernoulli_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(Bernoulli(σ(t)) ‖ Bernoulli(σ(s))) element by element, stable for large logits."""
    p = torch.sigmoid(teacher)
    return p * (F.logsigmoid(teacher) - F.logsigmoid(student)) + (1 - p) * (
        F.logsigmoid(-teacher) - F.logsigmoid(-student)
    )


@in_float32
def consistency_loss(
    *, student: Tensor, teacher: Tensor, regions: bool = False, variant: str = "default"
) -> Tensor:
    """Mean squared error of the probabilities.

    Args:
        student: logits (B, K, ...).
        teacher: same shape.
        regions: sigmoid, not softmax.
        variant: ``official`` sums the heads' mean squared errors of sigmoid probabilities, neither side
            detached (REFERENCE 1.3; which heads is the caller's choice). ``default`` is the mean over
            everything, sigmoid for regions and softmax for labels, the teacher detached.
    """
    if variant == "official":
        error = (torch.sigmoid(student) - torch.sigmoid(teacher)).square()
        return error.transpose(0, 1).flatten(1).mean(1).sum()
    if regions:
        return F.mse_loss(torch.sigmoid(student), torch.sigmoid(teacher.detach()))
    return F.mse_loss(torch.softmax(student, 1), torch.softmax(teacher.detach(), 1))
