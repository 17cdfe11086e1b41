"""RA-HVED's own loss terms, as in its released code (github.com/ssjx10/RA-HVED, commit 23a1543).

In one step the network sees the full patch and the same patch with modalities missing. All terms here are
of the missing pass but for the discriminator's, which sets one pass against the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_mstkd.losses.precision import full_precision

# Orientation of the released code: 1 = full pass, 0 = missing pass.
FULL, MISSING = 1.0, 0.0
_SURE = 0.5  # probability from which a voxel belongs to a region


@full_precision
def prior_divergence(*, means: Sequence[Tensor], log_variances: Sequence[Tensor]) -> Tensor:
    """KL divergence of the product's Gaussians to a unit Gaussian: mean over elements, then over levels.

    ½·(exp(lv) + μ² - 1 - lv), pulls the latents towards what an absent modality contributes: nothing.

    Args:
        means: one (B, C, ...) per level, any number of levels and axes.
        log_variances: the same.
    """
    levels = [
        (log_variance.exp() + mean.square() - 1 - log_variance).mean() / 2
        for mean, log_variance in zip(means, log_variances, strict=True)
    ]
    return torch.stack(levels).mean()


@full_precision
def reconstruction_loss(*, reconstruction: Tensor, images: Tensor, known: Tensor | None = None) -> Tensor:
    """Mean squared error of the images of all modalities, hidden ones too.

    Args:
        reconstruction: (B, M, ...).
        images: the patch before modalities were hidden (B, M, ...).
        known: (B, M) bool, modalities that the case has at all; all by default. Of the others there is no
            image to compare with; a batch without any gives 0.
    """
    if known is None:
        return F.mse_loss(reconstruction, images)
    errors = (reconstruction - images).square().flatten(2).mean(2)
    return torch.where(known, errors, 0.0).sum() / known.sum().clamp_min(1)


@full_precision
def nested_map(*, probabilities: Tensor, regions: bool) -> Tensor:
    """How much of a tumour a voxel is, (B, 1, ...), without gradient; 0 outside.

    Regions: the probability of the last region, in the channels' order, that has more than ½ there. The
    released order is whole tumour, tumour core, enhancing tumour, so it is the innermost's; nothing forces a
    region to lie in the one before. Labels: the largest of their probabilities where it is more than ½.

    Args:
        probabilities: (B, K, ...), without background.
        regions: channels are regions that may overlap instead of labels.
    """
    probabilities = probabilities.detach()
    sure = torch.where(probabilities > _SURE, probabilities, 0.0)
    if not regions:
        return sure.amax(1, keepdim=True)
    inner, *outer = reversed(sure.split(1, dim=1))
    for region in outer:
        inner = torch.where(inner > 0, inner, region)
    return inner


@full_precision
def discriminator_input(*, probabilities: Tensor, reconstruction: Tensor, regions: bool) -> Tensor:
    """What the discriminator judges a pass by: segmentation, and images brightened inside it.

    The images are r·(1 + w), w the :func:`nested_map`. Gradients reach both arguments, but not the
    segmentation by way of w.

    Args:
        probabilities: (B, K, ...), without background.
        reconstruction: (B, M, ...).
        regions: channels are regions that may overlap instead of labels.

    Returns:
        (B, K + M, ...).
    """
    emphasis = 1 + nested_map(probabilities=probabilities, regions=regions)
    return torch.cat((probabilities, reconstruction * emphasis), dim=1)


@full_precision
def adversarial_loss(*, missing: Tensor) -> Tensor:
    """What the network pays when its missing pass is recognised: mean squared distance to "full".

    Args:
        missing: the discriminator's output for the missing pass, any shape.
    """
    return (missing - FULL).square().mean()


@full_precision
def discriminator_loss(*, missing: Tensor, full: Tensor) -> Tensor:
    """Least squares loss of the discriminator, with a half; it tells the two passes of the network apart.

    Args:
        missing: its output for the missing pass, any shape; the pass detached.
        full: for the full pass.
    """
    return ((missing - MISSING).square().mean() + (full - FULL).square().mean()) / 2
