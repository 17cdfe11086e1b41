"""What every loss here needs: single precision, and an error that does not depend on scale."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import torch
from torch import Tensor

from nnunetv2_mstkd.errors import MSTKDError

F = TypeVar("F", bound=Callable[..., Tensor])
VARIANTS = ("default", "official")
_TINY = 1e-12


def in_float32(loss: F) -> F:
    """Run a loss in float32 whatever autocast says, and check its ``variant``.

    Half precision has neither the range nor the digits for squared differences of attention maps or Gram
    matrices, and autocast would pick it for the matrix products inside.
    """

    @wraps(loss)
    def wrapped(*, variant: str = "default", **inputs: object) -> Tensor:
        if variant not in VARIANTS:
            raise MSTKDError(f"unknown variant '{variant}' of {loss.__name__}; use {' or '.join(VARIANTS)}")
        first = next(t for t in _tensors(inputs.values()))
        with torch.autocast(first.device.type, enabled=False):
            return loss(variant=variant, **{k: _float(v) for k, v in inputs.items()})

    return wrapped  # type: ignore[return-value]


def relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error over the two energies, per sample: |s - t|² / (|s|² + |t|²), averaged over B.

    In [0, 2], 0 at equality, the same for features of any scale, size and number. The energies are a
    scale only: no gradient goes through them.

    Args:
        student: (B, ...), float32.
        teacher: same shape; detached here.
    """
    teacher = teacher.detach()
    # A common scale first, so that tiny entries (attention of many tokens) do not vanish when squared.
    scale = torch.maximum(_peak(student.detach()), _peak(teacher)).clamp_min(_TINY)
    s, t = student.flatten(1) / scale, teacher.flatten(1) / scale
    energy = (s.detach().square().sum(1) + t.square().sum(1)).clamp_min(_TINY)
    return ((s - t).square().sum(1) / energy).mean()


def _peak(x: Tensor) -> Tensor:
    return x.flatten(1).abs().amax(1, keepdim=True)


def _float(value: object) -> object:
    if isinstance(value, Tensor):
        return value.float()
    if isinstance(value, (list, tuple)):
        return [_float(v) for v in value]
    return value


def _tensors(values: object) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:  # type: ignore[attr-defined]
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _tensors(value)
    return found
