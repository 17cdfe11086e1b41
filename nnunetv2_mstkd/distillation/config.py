"""Weights and schedule of the objective, each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from nnunetv2_mstkd.errors import MSTKDError

TERMS = (
    "segmentation",
    "teacher_segmentation",
    "consistency",
    "kl",
    "token_features",
    "attention",
    "content",
    "gram",
    "adversarial",
)
# Share of the segmentation gradient above which a term is scaled back. KL and consistency lead (about
# 20 % together with room for noise), every other at most about 5 % (DESIGN 4.3).
_CAPS = {
    "consistency": 0.3,
    "kl": 0.3,
    "token_features": 0.05,
    "attention": 0.05,
    "content": 0.05,
    "gram": 0.05,
    "adversarial": 0.05,
}


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the terms, temperature and ramp. A term of weight 0 is not computed.

    The default weights of everything but KL and consistency are MEASURED.

    Attributes:
        segmentation: of the student; nnU-Net's own loss (default) or the released Dice (official, 0.6 =
            ``weight_mispath``, REFERENCE 1.3).
        teacher_segmentation: of a joint teacher (official: 0.4).
        consistency: at the end of its ramp; 8 from the pilot (REFERENCE 4.2), official 10.
        kl: 1 from the pilot, official 1.
        token_features: official 0.2.
        attention: official 1e8, which belongs to 120 tokens: the released term falls with N⁻⁴.
        content: official 0.2.
        gram: official 0, because the only call is commented out.
        adversarial: official 0.0002.
        temperature: of the KL term; 2 from the pilot, official 7.
        ramp_epochs: epochs over which ``ramped`` terms rise; official 20. ``None``: by ``ramp_fraction``.
        ramp_fraction: of the distillation epochs; 0.2 from the pilot.
        ramped: terms that rise with :func:`sigmoid_rampup`; official: consistency alone.
        caps: gradient share above which :class:`TermBounds` scales a term back; official: none.
    """

    segmentation: float = 1.0
    teacher_segmentation: float = 1.0
    consistency: float = 8.0
    kl: float = 1.0
    token_features: float = 0.02
    attention: float = 0.02
    content: float = 0.02
    gram: float = 0.02
    adversarial: float = 0.002
    temperature: float = 2.0
    ramp_epochs: float | None = None
    ramp_fraction: float = 0.2
    ramped: frozenset[str] = frozenset({"consistency", "kl"})
    caps: Mapping[str, float] = field(default_factory=lambda: dict(_CAPS))

    @classmethod
    def official(cls) -> ObjectiveConfig:
        """The constants of the released training script (REFERENCE 1.3)."""
        return cls(
            segmentation=0.6,
            teacher_segmentation=0.4,
            consistency=10.0,
            kl=1.0,
            token_features=0.2,
            attention=1e8,
            content=0.2,
            gram=0.0,
            adversarial=0.0002,
            temperature=7.0,
            ramp_epochs=20,
            ramped=frozenset({"consistency"}),
            caps={},
        )

    def with_weights(self, weights: Mapping[str, float]) -> ObjectiveConfig:
        """A copy with some weights replaced.

        Raises:
            MSTKDError: a name that is no term; lists those there are.
        """
        for name in weights:
            if name not in TERMS:
                raise MSTKDError(f"unknown objective term '{name}'; known: {', '.join(TERMS)}")
        return replace(self, **{name: float(weight) for name, weight in weights.items()})

    def weights(self) -> dict[str, float]:
        """Weight of every term, before the ramp."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name in TERMS}
