"""Feature matching: multi-scale token features (MS-TKD) and content (GSME)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_mstkd.losses.pairs import (
    TensorOrLevels,
    bounded_relative_error,
    is_official,
    matched_pairs,
    mean,
)
from nnunetv2_mstkd.losses.precision import full_precision


@full_precision
def token_feature_loss(
    *, student: Sequence[Tensor], teacher: Sequence[Tensor], variant: str = "default"
) -> Tensor:
    """Difference of the decoded token features, level by level (MST-KDNet's "unetr" loss, docs/fidelity.md).

    ``official``: sum over levels of the mean squared error, nothing detached.

    ``default``: mean over levels of :func:`bounded_relative_error`, in [0, 1), so that no level counts more
    because its features happen to be larger; the teacher is detached.

    Args:
        student: one (B, C_l, ...) per level, any number of spatial axes.
        teacher: the same.
        variant: ``default`` or ``official``.
    """
    return _feature_loss(student, teacher, variant)


@full_precision
def content_loss(*, student: Tensor, teacher: Tensor, variant: str = "default") -> Tensor:
    """Difference of the content features (SMU-Net's content loss, docs/fidelity.md).

    ``official``: mean squared error, nothing detached. ``default``: :func:`bounded_relative_error`, the
    teacher detached.

    Args:
        student: (B, C, ...), any number of spatial axes.
        teacher: the same.
        variant: ``default`` or ``official``.
    """
    return _feature_loss(student, teacher, variant)


def _feature_loss(student: TensorOrLevels, teacher: TensorOrLevels, variant: str) -> Tensor:
    pairs = matched_pairs(student, teacher, variant)
    if is_official(variant):
        return torch.stack([F.mse_loss(s, t) for s, t in pairs]).sum()
    return mean([bounded_relative_error(s, t) for s, t in pairs])
