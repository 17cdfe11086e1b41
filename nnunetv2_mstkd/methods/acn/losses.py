"""ACN's own loss terms and all weights: pure functions of tensors.

The others are shared: the consistency is :func:`~nnunetv2_mstkd.losses.co_training.mutual_consistency_loss`,
what a network pays when a discriminator recognises it
:func:`~nnunetv2_mstkd.losses.style.style_adversarial_loss`.
"""

from __future__ import annotations

from math import log2

import torch.nn.functional as F
from torch import Tensor

from nnunetv2_mstkd.losses.precision import full_precision
from nnunetv2_mstkd.losses.style import style_discriminator_loss

# ``consistency`` times sigmoid_rampup(epoch, RAMP_EPOCHS): 0.067 in the first epoch, 10 from the 20th on.
# ``reconstruction`` is configured as 0.1 in the released code, and its call commented out.
WEIGHTS = {
    "segmentation": 0.8,
    "teacher_segmentation": 0.2,
    "consistency": 10.0,
    "knowledge_transfer": 0.5,
    "adversarial_entropy": 0.001,
    "adversarial_features": 0.0002,
    "reconstruction": 0.0,
}

_LEAST_VARIANCE = 1e-5
_LEAST_PROBABILITY = 1e-30


@full_precision
def knowledge_transfer_loss(*, prediction: Tensor, log_scale: Tensor, target: Tensor) -> Tensor:
    """How badly the student's regressor predicts a bottleneck: a Gaussian's negative log-likelihood.

    Mean of ½·((prediction − target)² / v + log v), v = softplus(log_scale) + 1e-5 (variational information
    distillation: a bound of the mutual information).

    The target is meant to be the *teacher's* bottleneck: give it detached. The released script gives the
    *student's* own, not detached, so nothing is transferred (docs/methods/acn.md); this function gives its
    value too, with that target.

    Args:
        prediction: the student's (B, C, ...).
        log_scale: (C,) or (B, C).
        target: (B, C, ...); a gradient reaches it unless it is detached.
    """
    variance = F.softplus(log_scale) + _LEAST_VARIANCE
    variance = variance.reshape(-1, variance.shape[-1], *[1] * (target.ndim - 2))
    return (((prediction - target).square() / variance + variance.log()) / 2).mean()


@full_precision
def entropy_map(*, probabilities: Tensor, twice: bool = True) -> Tensor:
    """Every head's share of the entropy, −q·log2 q / log2 K: (B, K, ...) → (B, K, ...).

    As released, q is the softmax over heads of what already are probabilities. That leaves q near 1/K
    everywhere and the map nearly constant (with four heads in [0.174, 0.265]): the discriminator sees little.

    Args:
        probabilities: (B, K, ...).
        twice: take that softmax; without it q is the probabilities.
    """
    q = probabilities.softmax(1) if twice else probabilities
    heads = max(q.shape[1], 2)  # one head: log2 is 0
    return -q * (q + _LEAST_PROBABILITY).log2() / log2(heads)


def discriminator_loss(*, student: Tensor, teacher: Tensor) -> Tensor:
    """Loss of either discriminator: the teacher's input is 0 (full), the student's 1 (missing); half of each.

    Args:
        student: logits of what the student gave (detached before it was judged), any shape.
        teacher: of what the teacher gave.
    """
    return style_discriminator_loss(student=student, teacher=teacher) / 2


@full_precision
def kl_consistency_loss(*, student: Tensor, teacher: Tensor) -> Tensor:
    """The released code's option instead of the mutual consistency: KL(teacher ‖ student).

    Of the softmax over heads of what already are probabilities, and a mean over all elements, heads included.

    Args:
        student: probabilities (B, K, ...), the background among them.
        teacher: the same.
    """
    divergence = teacher.softmax(1) * (teacher.log_softmax(1) - student.log_softmax(1))
    return divergence.mean()


@full_precision
def reconstruction_loss(
    *, reconstruction: Tensor, image: Tensor, code_mean: Tensor, code_log_variance: Tensor
) -> Tensor:
    """Loss of the autoencoder: mean squared error, and the code's KL divergence from the standard normal.

    The divergence is summed over the code's numbers and averaged over samples (released: batches of one).

    Args:
        reconstruction: (B, M, ...).
        image: what to reconstruct, (B, M, ...).
        code_mean: (B, D).
        code_log_variance: (B, D).
    """
    divergence = code_mean.square() + code_log_variance.exp() - 1 - code_log_variance
    return F.mse_loss(reconstruction, image) + divergence.sum(1).mean() / 2
