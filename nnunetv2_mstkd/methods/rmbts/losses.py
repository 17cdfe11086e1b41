"""What RMBTS learns from beside the segmentation: its images again, and plain modulations."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunetv2_mstkd.losses.precision import full_precision

# Smaller shifts count as 1e-4 in the logarithm: the released code's is infinite at 0, and so is its gradient.
_SMALLEST_VARIANCE = 1e-8


@full_precision
def reconstruction_loss(*, reconstruction: Tensor, image: Tensor, available: Tensor | None = None) -> Tensor:
    """Mean absolute difference of image and reconstruction, summed over modalities, mean over samples.

    Args:
        reconstruction: (B, M, ...).
        image: the same, before any masking.
        available: (B, M) bool, modalities that the case has; the others add 0. All by default.
    """
    return _over_modalities((image - reconstruction).abs().flatten(2).mean(2), available)


@full_precision
def modulation_loss(*, gain: Tensor, shift: Tensor, available: Tensor | None = None) -> Tensor:
    """Divergence from N(0, 1) of normals with mean ``gain`` and standard deviation ``shift``, as released.

    ½ Σ (gain² + shift² - 1 - log shift²) over channels, summed over modalities, mean over samples. The
    released code ("mu", "sigma") means a penalty on the style, but draws nothing from these normals: they are
    gain and shift of the image decoders' adaptive norms, and this pulls the gain to 0, the shift to ±1.

    Args:
        gain: (B, M, C).
        shift: (B, M, C).
        available: (B, M) bool, modalities that the case has; the others add 0. All by default.
    """
    variance = shift.square()
    divergence = gain.square() + variance - 1 - variance.clamp_min(_SMALLEST_VARIANCE).log()
    return _over_modalities(0.5 * divergence.sum(2), available)


def _over_modalities(losses: Tensor, available: Tensor | None) -> Tensor:
    """Sum over modalities, mean over samples, of losses (B, M)."""
    if available is not None:
        losses = torch.where(available, losses, 0)
    return losses.sum(1).mean()
