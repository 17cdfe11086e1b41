"""Features: those of the tokens (the other half of MS-TKD) and the content features (part of GSME)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_mstkd.distillation.numerics import in_float32, relative_error


@in_float32
def token_feature_loss(
    *, student: Sequence[Tensor], teacher: Sequence[Tensor], variant: str = "default"
) -> Tensor:
    """Match the features that the token decoder makes of each tapped layer.

    Args:
        student: one tensor (B, C_l, ...) per level.
        teacher: same shapes.
        variant: ``official`` is the sum over levels of mean squared errors, level weights 1, neither side
            detached (REFERENCE 1.3, L_unetr). ``default`` averages the levels' relative errors, in [0, 2],
            the teacher detached.
    """
    if variant == "official":
        return torch.stack([F.mse_loss(s, t) for s, t in zip(student, teacher, strict=True)]).sum()
    return torch.stack([relative_error(s, t) for s, t in zip(student, teacher, strict=True)]).mean()


@in_float32
def content_loss(*, student: Tensor, teacher: Tensor, variant: str = "default") -> Tensor:
    """Match the content features (B, C, ...).

    ``official``: mean squared error, neither side detached (REFERENCE 1.3). ``default``: relative error, in
    [0, 2], the teacher detached.
    """
    return F.mse_loss(student, teacher) if variant == "official" else relative_error(student, teacher)
