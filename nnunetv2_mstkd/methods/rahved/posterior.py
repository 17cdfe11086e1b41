"""Product of Gaussian experts: what each present modality says about a latent map, and a unit prior."""

from __future__ import annotations

import torch
from torch import Tensor

# Bounds of log-variances, and what is added to variances (released code): precisions stay below 1e8.
LOG_VARIANCE_BOUND = 50.0
_SMALLEST_VARIANCE = 1e-8


def product_of_experts(means: Tensor, log_variances: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance (B, C, ...) of the product of Gaussians and a unit Gaussian prior.

    Precision-weighted: with T = 1/variance, mean = Σ T·μ / Σ T and variance = 1 / Σ T, where the prior adds
    T = 1, μ = 0. An absent expert has T = 0: no influence and no gradient. Without any, the prior remains.
    Computed in float32 at least.

    Args:
        means: (B, M, C, ...), an expert per modality.
        log_variances: the same; clamped to ±50.
        present: (B, M) bool.
    """
    device = "cpu" if means.is_meta else means.device.type  # tensors without storage know no autocast
    dtype = torch.promote_types(means.dtype, torch.float32)  # precisions up to 1e8 are beyond 16 bits
    with torch.autocast(device, enabled=False):
        bounded = log_variances.to(dtype).clamp(-LOG_VARIANCE_BOUND, LOG_VARIANCE_BOUND)
        there = present.view(*present.shape, *[1] * (means.ndim - 2))
        precision = torch.where(there, 1 / (bounded.exp() + _SMALLEST_VARIANCE), 0.0)
        total = precision.sum(1) + 1 / (1 + _SMALLEST_VARIANCE)
        mean = (precision * means.to(dtype)).sum(1) / total
        return mean, -total.log()


def drawn(mean: Tensor, log_variance: Tensor) -> Tensor:
    """A sample of the Gaussian, voxel by voxel; the noise is from torch's generator of the device."""
    return mean + (log_variance / 2).exp() * torch.randn_like(mean)
