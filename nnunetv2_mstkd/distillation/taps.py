"""What the terms look at, and whether two networks show the same there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from torch import Tensor

# Taps of a term, beside the logits; each of these is one tensor or one per tapped layer.
_TAPS: dict[str, tuple[str, ...]] = {
    "content": ("content",),
    "token_features": ("token_features",),
    "attention": ("attention",),
    "gram": ("encoded", "style", "content"),
    "adversarial": ("style",),
}
# Where a network does not split style from content, its bottleneck features stand for both.
_BOTTLENECK = "encoded"
_STANDS_FOR = ("style", "content")


class Taps(Protocol):
    """What a network shows of itself; what it does not have is ``None``.

    Attributes:
        logits: (B, K, ...), with deep supervision a list, full resolution first.
        attention: one (B, heads, N, N) per tapped layer.
        token_features: one (B, C_l, ...) per tapped layer.
        encoded, style, content: (B, C, *bottleneck).
    """

    @property
    def logits(self) -> Tensor | list[Tensor]: ...
    @property
    def attention(self) -> Sequence[Tensor] | None: ...
    @property
    def token_features(self) -> Sequence[Tensor] | None: ...
    @property
    def encoded(self) -> Tensor | None: ...
    @property
    def style(self) -> Tensor | None: ...
    @property
    def content(self) -> Tensor | None: ...


@dataclass(frozen=True)
class SampleTaps:
    """Taps of some samples of a batch; see :class:`Taps`."""

    logits: Tensor | list[Tensor]
    attention: Sequence[Tensor] | None
    token_features: Sequence[Tensor] | None
    encoded: Tensor | None
    style: Tensor | None
    content: Tensor | None


def of_samples(taps: Taps, samples: Tensor) -> SampleTaps:
    """The taps of some samples.

    Args:
        taps: of a batch.
        samples: their indices (n,).
    """

    def pick(value: Any) -> Any:
        if value is None or isinstance(value, Tensor):
            return None if value is None else value[samples]
        return [level[samples] for level in value]

    return SampleTaps(**{field.name: pick(getattr(taps, field.name)) for field in fields(SampleTaps)})


def looks_inside(term: str) -> bool:
    """Whether a term compares more than logits."""
    return term in _TAPS


def compared(term: str, taps: Taps) -> dict[str, Tensor | Sequence[Tensor]]:
    """The taps that a term compares, by name; empty if the network does not show them.

    A network without style and content (a plain U-Net) is compared at its bottleneck: its content, its
    style and the only map of its Gram matrix are ``encoded``.
    """
    found = {}
    for name in _TAPS.get(term, ()):
        shown = name if getattr(taps, name) is not None or name not in _STANDS_FOR else _BOTTLENECK
        value = getattr(taps, shown)
        if value is None:
            return {}
        found[shown] = value
    return found


def style_features(taps: Taps) -> Tensor:
    """What the style discriminator judges (B, C, *bottleneck); of a network that shows it."""
    (style,) = _maps("adversarial", taps)
    return style


def bottleneck_maps(taps: Taps) -> tuple[Tensor, ...]:
    """What the Gram matrices are taken of, each (B, C, *bottleneck): encoded, style, content."""
    return _maps("gram", taps)


def _maps(term: str, taps: Taps) -> tuple[Tensor, ...]:
    return tuple(value for value in compared(term, taps).values() if isinstance(value, Tensor))


def misfit(term: str, student: Taps, teacher: Taps) -> str | None:
    """Why a term cannot compare these two, in words; ``None`` if it can.

    Sizes count per sample, so that taps of different batches can be asked about.
    """
    if not looks_inside(term):
        return None
    of_student, of_teacher = compared(term, student), compared(term, teacher)
    for owner, found in (("student", of_student), ("teacher", of_teacher)):
        if not found:
            return f"the {owner}'s network shows no {' and '.join(_TAPS[term])}"
    if of_student.keys() != of_teacher.keys():
        names = (" and ".join(found) for found in (of_student, of_teacher))
        return "the student's network shows {}, the teacher's {}".format(*names)
    for name, tensors in of_student.items():
        sizes = [_sizes(tensors), _sizes(of_teacher[name])]
        if sizes[0] != sizes[1]:
            return f"{name} is {_text(sizes[0])} in the student, {_text(sizes[1])} in the teacher"
    return None


def _sizes(tensors: Tensor | Sequence[Tensor]) -> list[tuple[int, ...]]:
    levels = [tensors] if isinstance(tensors, Tensor) else tensors
    return [tuple(level.shape[1:]) for level in levels]


def _text(sizes: list[tuple[int, ...]]) -> str:
    return ", ".join(" x ".join(map(str, size)) for size in sizes)
