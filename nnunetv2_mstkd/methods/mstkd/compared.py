"""What the terms of MST-KD look at, and whether two networks show the same there."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from nnunetv2_mstkd.architectures.taps import ENCODED, NetworkTaps, TensorOrList, size_misfit

# Taps of a term, beside the logits.
_TAPS: dict[str, tuple[str, ...]] = {
    "content": ("content",),
    "token_features": ("token_features",),
    "attention": ("attention",),
    "gram": (ENCODED, "style", "content"),
    "adversarial": ("style",),
}
# Where a network does not split style from content, its bottleneck features stand for both.
_STANDS_FOR = ("style", "content")


def taps_of(terms: Collection[str]) -> tuple[str, ...]:
    """Names of the taps that these terms compare."""
    return tuple(dict.fromkeys(tap for term in terms for tap in _TAPS.get(term, ())))


def compared(term: str, taps: NetworkTaps) -> dict[str, TensorOrList]:
    """The taps that a term compares, by name; empty if the network does not show them.

    A network without style and content (a plain U-Net) is compared at its bottleneck: its content, its
    style and the only map of its Gram matrix are ``encoded``.
    """
    found = {}
    for name in _TAPS.get(term, ()):
        shown = name if name in taps.inner or name not in _STANDS_FOR else ENCODED
        if shown not in taps.inner:
            return {}
        found[shown] = taps.inner[shown]
    return found


def style_features(taps: NetworkTaps) -> Tensor:
    """What the style discriminator judges (B, C, *bottleneck); of a network that shows it."""
    (style,) = _maps("adversarial", taps)
    return style


def bottleneck_maps(taps: NetworkTaps) -> tuple[Tensor, ...]:
    """What the Gram matrices are taken of, each (B, C, *bottleneck): encoded, style, content."""
    return _maps("gram", taps)


def _maps(term: str, taps: NetworkTaps) -> tuple[Tensor, ...]:
    return tuple(value for value in compared(term, taps).values() if isinstance(value, Tensor))


def misfit(term: str, student: NetworkTaps, teacher: NetworkTaps) -> str | None:
    """Why a term cannot compare these two, in words; ``None`` if it can.

    Sizes count per sample, so that taps of different batches can be asked about.
    """
    if term not in _TAPS:
        return None
    of_student, of_teacher = compared(term, student), compared(term, teacher)
    for owner, found in (("student", of_student), ("teacher", of_teacher)):
        if not found:
            return f"the {owner}'s network shows no {' and '.join(_TAPS[term])}"
    if of_student.keys() != of_teacher.keys():
        names = (" and ".join(found) for found in (of_student, of_teacher))
        return "the student's network shows {}, the teacher's {}".format(*names)
    return size_misfit(of_student, of_teacher)
