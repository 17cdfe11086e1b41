"""Weights and schedule of the objective, in one place, each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.losses.logits import (
    LABEL_TEMPERATURE,
    OFFICIAL_TEMPERATURE,
    REGION_TEMPERATURE,
)
from nnunetv2_mstkd.losses.schedules import linear_rampup, sigmoid_rampup

# Every term of the objective, in the order of the log; each has a weight of the same name.
TERM_NAMES = (
    "segmentation",
    "teacher_segmentation",
    "consistency",
    "kl",
    "content",
    "token_features",
    "attention",
    "gram",
    "adversarial",
    "foreground_kl",
    "more_vs_fewer",
)
# The only ones that need no teacher, or are its own.
SEGMENTATION_TERMS = frozenset({"segmentation", "teacher_segmentation"})
# Tokens of the published network (160×192×128, 32 voxels per token and axis), which 1e8 belongs to.
OFFICIAL_TOKENS = 120

# A term is scaled back when its gradient exceeds this share of the segmentation gradient. Meant are about
# 20 % for the leading terms and at most about 5 % for the others. The leading ones get a margin of a half:
# their shares on single batches reach that far above the median (docs/fidelity.md).
_CAPS = {
    "consistency": 0.3,
    "kl": 0.3,
    "content": 0.05,
    "token_features": 0.05,
    "attention": 0.05,
    "gram": 0.05,
    "adversarial": 0.05,
    "foreground_kl": 0.3,
}


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the named terms and their schedule; the defaults are those of the ``default`` variant.

    A weight of 0 switches its term off: it is not computed. Weights "by measured share" are chosen from the
    terms' gradient norms relative to the segmentation gradient; docs/fidelity.md has the measurement.

    Attributes:
        segmentation: student's segmentation loss; 1, the unit of all others.
        teacher_segmentation: teacher's, when it is trained too; 1, so that it learns as it would alone.
        consistency: MSE of probabilities; by measured share (about 20 %).
        kl: KL of logits, region heads; by measured share (about 20 %).
        content: content features, relative error; by measured share (2 to 3 %), as the following.
        token_features: decoded token features, relative error.
        attention: attention extremes, relative error.
        gram: cross-scale Gram matrices.
        adversarial: student's side of the style game.
        foreground_kl: KL of probabilities, weighted to the foreground; off but in :meth:`nested`.
        more_vs_fewer: hinge on the losses of nested pairs; the teacher ``nested`` only, see :meth:`nested`.
        label_kl_factor: multiplies the default ``kl`` for label heads, whose z-scores have smaller gradients
            than raw logits; by measured share (about 20 %).
        temperature: T of the KL for region heads; 2, pilot (docs/fidelity.md).
        label_temperature: T of the KL for label heads; 1, see ``logits.LABEL_TEMPERATURE``.
        ramped: terms whose weight starts near 0 and grows by :func:`sigmoid_rampup`; pilot.
        ramped_linearly: terms whose weight grows from 0 in a straight line over the same epochs.
        ramp_fraction: length of the ramp as a share of the distillation epochs; 0.2, pilot.
        ramp_epochs: length of the ramp in epochs; overrides ``ramp_fraction`` unless ``None``.
        caps: largest share of the segmentation gradient per term, see :class:`TermBounds`.
    """

    segmentation: float = 1.0
    teacher_segmentation: float = 1.0
    consistency: float = 4.0
    kl: float = 0.25
    content: float = 0.1
    token_features: float = 0.3
    attention: float = 0.05
    gram: float = 0.4
    adversarial: float = 0.001
    foreground_kl: float = 0.0
    more_vs_fewer: float = 0.0
    label_kl_factor: float = 16.0
    temperature: float = REGION_TEMPERATURE
    label_temperature: float = LABEL_TEMPERATURE
    ramped: tuple[str, ...] = ("consistency", "kl")
    ramped_linearly: tuple[str, ...] = ("foreground_kl",)
    ramp_fraction: float = 0.2
    ramp_epochs: float | None = None
    caps: Mapping[str, float] = field(default_factory=lambda: dict(_CAPS))

    @classmethod
    def official(cls, num_tokens: int = OFFICIAL_TOKENS) -> ObjectiveConfig:
        """The released script's constants (docs/fidelity.md), without bounds.

        The Gram term is at 0 because the only call in the script is commented out; it never had a weight.

        Args:
            num_tokens: N of the network. The released attention weight, 1e8, belongs to 120 tokens; the
                term falls as N⁻⁴, so for another N the weight of equal strength is 1e8·(N/120)⁴.
        """
        return cls(
            segmentation=0.6,
            teacher_segmentation=0.4,
            consistency=10.0,
            kl=1.0,
            content=0.2,
            token_features=0.2,
            attention=1e8 * (num_tokens / OFFICIAL_TOKENS) ** 4,
            gram=0.0,
            adversarial=0.0002,
            label_kl_factor=1.0,
            temperature=OFFICIAL_TEMPERATURE,
            label_temperature=OFFICIAL_TEMPERATURE,
            ramped=("consistency",),
            ramp_epochs=20,
            caps={},
        )

    @classmethod
    def nested(cls) -> ObjectiveConfig:
        """For pairs of one patch under nested subsets: hinge and foreground KL, starting values, not tuned.

        The other terms are at 0: what each adds there is to be shown first.
        """
        off = dict.fromkeys((name for name in TERM_NAMES if name not in SEGMENTATION_TERMS), 0.0)
        return cls().with_weights(off | {"foreground_kl": 0.5, "more_vs_fewer": 0.1})

    def weights(self) -> dict[str, float]:
        """Weight of every term by name."""
        return {name: float(getattr(self, name)) for name in TERM_NAMES}

    @property
    def distils(self) -> bool:
        """Whether any term needs a teacher."""
        return any(getattr(self, name) > 0 for name in TERM_NAMES if name not in SEGMENTATION_TERMS)

    def with_weights(self, weights: Mapping[str, float]) -> ObjectiveConfig:
        """A copy with some terms' weights replaced. A given ``kl`` is meant as it stands, for labels too.

        Raises:
            MSTKDError: an unknown term (the message lists the known ones), or a weight that is not a finite
                number of at least 0.
        """
        for name, weight in weights.items():
            if name not in TERM_NAMES:
                raise MSTKDError(f"unknown objective term '{name}'; known: {', '.join(TERM_NAMES)}")
            if isinstance(weight, bool) or not isinstance(weight, (int, float)):
                raise MSTKDError(f"weight of term '{name}' is {weight!r}; it must be a number")
            if not isfinite(weight) or weight < 0:
                raise MSTKDError(f"weight of term '{name}' is {weight!r}; it must be finite and at least 0")
        factor = 1.0 if "kl" in weights else self.label_kl_factor
        changed: dict[str, Any] = {name: float(weight) for name, weight in weights.items()}
        return replace(self, label_kl_factor=factor, **changed)

    def weight(self, term: str, epoch: float, num_epochs: int, raw_logits: bool = True) -> float:
        """Weight of a term in force at ``epoch`` of ``num_epochs`` distillation epochs, ramp included.

        Args:
            raw_logits: the KL compares raw logits (regions, two label heads), not z-scores.
        """
        base = getattr(self, term)
        if term == "kl" and not raw_logits:
            base *= self.label_kl_factor
        length = self.ramp_fraction * num_epochs if self.ramp_epochs is None else self.ramp_epochs
        if term in self.ramped_linearly:
            return base * linear_rampup(epoch, length)
        return base * sigmoid_rampup(epoch, length) if term in self.ramped else base
