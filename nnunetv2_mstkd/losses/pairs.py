"""How a student's tensors are set against a teacher's: pairs, targets, and an error without units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Variant = Literal["default", "official"]
VARIANTS = ("default", "official")
TensorOrLevels = Tensor | Sequence[Tensor]
Pair = tuple[Tensor, Tensor]

# Keeps 0/0 from arising where student and teacher are both exactly zero; far below any real energy.
_TINY = 1e-20


def is_official(variant: str) -> bool:
    """Whether ``variant`` is ``"official"``.

    Raises:
        ValueError: it is neither ``default`` nor ``official``.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant '{variant}'; use one of {', '.join(VARIANTS)}")
    return variant == "official"


def matched_pairs(student: TensorOrLevels, teacher: TensorOrLevels, variant: str) -> list[Pair]:
    """(student, teacher) tensors level by level.

    The teacher's are detached unless ``variant`` is ``official``, whose code detaches nothing
    (docs/fidelity.md).

    Raises:
        ValueError: numbers of levels or shapes differ (they would broadcast silently), or no level at all.
    """
    students, teachers = _levels(student), _levels(teacher)
    if len(students) != len(teachers) or not students:
        raise ValueError(
            f"student gives {len(students)} levels, teacher {len(teachers)}; give as many, not 0"
        )
    for s, t in zip(students, teachers, strict=True):
        if s.shape != t.shape:
            raise ValueError(f"student has shape {tuple(s.shape)}, teacher {tuple(t.shape)}; they must agree")
    if not is_official(variant):
        teachers = [t.detach() for t in teachers]
    return list(zip(students, teachers, strict=True))


def bounded_relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over samples of e / (e + E), e = mean (student − teacher)², E = mean teacher²; in [0, 1).

    The means run over everything but the batch axis, so the value depends neither on the scale of the
    features nor on how many there are. For small errors it is the squared error relative to the teacher's
    energy; at e = E (no better than predicting zero) it is ½; beyond, it saturates and lets go.

    Args:
        student: (B, ...).
        teacher: (B, ...), detached by the caller.
    """
    axes = tuple(range(1, student.ndim))
    error = (student - teacher).square().mean(axes)
    energy = teacher.square().mean(axes)
    return (error / (error + energy).clamp_min(_TINY)).mean()


def mean(values: Sequence[Tensor]) -> Tensor:
    """Mean of scalar tensors."""
    return torch.stack(list(values)).mean()


def _levels(value: TensorOrLevels) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)
