"""The sum of all terms: what a distillation step minimises."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nnunetv2_mstkd.distillation.attention import attention_extremes_loss
from nnunetv2_mstkd.distillation.config import ObjectiveConfig
from nnunetv2_mstkd.distillation.features import content_loss, token_feature_loss
from nnunetv2_mstkd.distillation.logits import consistency_loss, standardised_kl_loss
from nnunetv2_mstkd.distillation.official_dice import OfficialSegmentation
from nnunetv2_mstkd.distillation.schedules import sigmoid_rampup
from nnunetv2_mstkd.distillation.style import gram_matching_loss, style_adversarial_loss

Logits = Tensor | list[Tensor]
SegmentationLoss = Callable[[Any, Any], Tensor]


class Taps(Protocol):
    """What the objective looks at in a network's output; only the logits if every other weight is 0."""

    logits: Logits
    attention: list[Tensor]
    token_features: list[Tensor]
    encoded: Tensor
    style: Tensor
    content: Tensor


@dataclass(frozen=True)
class ObjectiveOutput:
    """Result of one evaluation.

    Attributes:
        terms: unweighted scalars by name.
        weights: in force: configured, times ramp, times bound.
        total: Σ weight · term.
    """

    terms: dict[str, Tensor]
    weights: dict[str, float]
    total: Tensor

    def weighted_terms(self) -> dict[str, Tensor]:
        """The summands of ``total``."""
        return {name: self.weights[name] * term for name, term in self.terms.items()}


class MSTKDObjective:
    """Segmentation plus every published distillation term, each with a weight of its own.

    Args:
        config: weights and schedule.
        regions: heads are overlapping regions (sigmoid), not classes (softmax).
        segmentation_loss: takes (logits, target) as the trainer has them, deep-supervision lists included;
            the official variant has its own and needs none.
        variant: ``default`` or ``official`` (docs/fidelity.md has the differences).
        background_channel: label heads only: nnU-Net's is the first, the released code's the last.
    """

    def __init__(
        self,
        config: ObjectiveConfig,
        *,
        regions: bool,
        segmentation_loss: SegmentationLoss | None = None,
        variant: str = "default",
        background_channel: int = 0,
    ) -> None:
        self.config = config
        self.regions = regions
        self.variant = variant
        self._segmentation_loss = segmentation_loss
        self._official = OfficialSegmentation(None if regions else background_channel)

    def __call__(
        self,
        *,
        student: Taps,
        teacher: Taps,
        target: Any,
        epoch: float,
        num_epochs: int,
        style_discriminator: nn.Module | None = None,
        train_teacher: bool = False,
        scales: Mapping[str, float] | None = None,
    ) -> ObjectiveOutput:
        """Evaluate every term that has a weight.

        Args:
            student: of the masked patch.
            teacher: of the whole patch.
            target: for the segmentation loss.
            epoch: since distillation began.
            num_epochs: of the distillation.
            style_discriminator: for the adversarial term; gets no gradient from it.
            train_teacher: the teacher learns too (joint): its segmentation is a term.
            scales: factors on weights, of :class:`TermBounds`.
        """
        weights = self.weights(epoch, num_epochs)
        if not train_teacher:
            del weights["teacher_segmentation"]
        if style_discriminator is None:
            del weights["adversarial"]
        weights = {n: w * (scales or {}).get(n, 1.0) for n, w in weights.items() if w > 0}
        terms = {n: self._term(n, student, teacher, target, style_discriminator) for n in weights}
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        return ObjectiveOutput(terms, weights, total)

    def weights(self, epoch: float, num_epochs: int) -> dict[str, float]:
        """Configured weights times the ramp."""
        config = self.config
        length = config.ramp_fraction * num_epochs if config.ramp_epochs is None else config.ramp_epochs
        ramp = sigmoid_rampup(epoch, length)
        return {name: w * ramp if name in config.ramped else w for name, w in config.weights().items()}

    def _term(
        self, name: str, student: Taps, teacher: Taps, target: Any, discriminator: nn.Module | None
    ) -> Tensor:
        variant = self.variant
        if name in ("segmentation", "teacher_segmentation", "consistency", "kl"):
            return self._logit_term(name, student.logits, teacher.logits, target)
        if name == "token_features":
            pair = {"student": student.token_features, "teacher": teacher.token_features}
            return token_feature_loss(**pair, variant=variant)
        if name == "attention":
            pair = {"student": student.attention, "teacher": teacher.attention}
            return attention_extremes_loss(**pair, variant=variant)
        if name == "content":
            return content_loss(student=student.content, teacher=teacher.content, variant=variant)
        if name == "gram":
            return gram_matching_loss(student=_scales(student), teacher=_scales(teacher), variant=variant)
        with _frozen(discriminator), torch.autocast(student.style.device.type, enabled=False):
            judged = discriminator(student.style.float())
        return style_adversarial_loss(student=judged, variant=variant)

    def _logit_term(self, name: str, student: Logits, teacher: Logits, target: Any) -> Tensor:
        s, t = _full_resolution(student), _full_resolution(teacher)
        official = self.variant == "official"
        if name == "segmentation":
            return (
                self._official.student(s, t, target) if official else self._segmentation_loss(student, target)
            )
        if name == "teacher_segmentation":
            return self._official.teacher(t, target) if official else self._segmentation_loss(teacher, target)
        if name == "consistency":
            if official:
                return self._official.consistency(s, t, target)
            return consistency_loss(student=s, teacher=t, regions=self.regions)
        return standardised_kl_loss(
            student=s,
            teacher=t,
            temperature=self.config.temperature,
            regions=self.regions,
            variant=self.variant,
        )


def _full_resolution(logits: Logits) -> Tensor:
    return logits[0] if isinstance(logits, (list, tuple)) else logits


def _scales(taps: Taps) -> list[Tensor]:
    """Global_style of the released code, in its order."""
    return [taps.encoded, taps.style, taps.content]


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """No gradient for the module's parameters from what is computed inside."""
    wanted = [p for p in module.parameters() if p.requires_grad]
    for p in wanted:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in wanted:
            p.requires_grad_(True)
