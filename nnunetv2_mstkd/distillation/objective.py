"""The objective of MST-KD training: named terms, weighted and added up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from nnunetv2_mstkd.distillation.attention import attention_extremes_loss
from nnunetv2_mstkd.distillation.comparison import is_official
from nnunetv2_mstkd.distillation.config import TERM_NAMES, ObjectiveConfig
from nnunetv2_mstkd.distillation.features import content_loss, token_feature_loss
from nnunetv2_mstkd.distillation.logits import consistency_loss, standardised_kl_loss
from nnunetv2_mstkd.distillation.official_dice import head_dice_losses, official_student_dice
from nnunetv2_mstkd.distillation.style import (
    discriminator_loss_on_styles,
    gram_matching_loss,
    style_adversarial_loss,
)
from nnunetv2_mstkd.errors import MSTKDError

Target = Tensor | list[Tensor]

# What a term looks at beside the logits.
_TAPS: dict[str, tuple[str, ...]] = {
    "content": ("content",),
    "token_features": ("token_features",),
    "attention": ("attention",),
    "gram": ("encoded", "style", "content"),
    "adversarial": ("style",),
}


class Taps(Protocol):
    """What a network shows of itself; a tap that no active term needs may be ``None``.

    Attributes:
        logits: (B, K, ...), with deep supervision a list, full resolution first.
        attention: one (B, heads, N, N) per tapped layer.
        token_features: one (B, C_l, ...) per tapped layer.
        encoded, style, content: (B, C, *bottleneck).
    """

    logits: Tensor | list[Tensor]
    attention: Sequence[Tensor] | None
    token_features: Sequence[Tensor] | None
    encoded: Tensor | None
    style: Tensor | None
    content: Tensor | None


@dataclass(frozen=True)
class ObjectiveOutput:
    """What one step minimises.

    Attributes:
        terms: scalar tensors by name, unweighted; terms of weight 0 are absent.
        weights: weight of each in force, ramp and bounds included.
        total: weighted sum.
    """

    terms: dict[str, Tensor]
    weights: dict[str, float]
    total: Tensor

    def weighted_terms(self) -> dict[str, Tensor]:
        """The summands of ``total`` by name."""
        return {name: self.weights[name] * value for name, value in self.terms.items()}


@dataclass(frozen=True)
class _Step:
    student: Taps
    teacher: Taps | None
    target: Target
    style_discriminator: nn.Module | None


class MSTKDObjective:
    """Segmentation plus every distillation term whose weight is above 0.

    ``default`` is what the method means, ``official`` what the released code computes, quirks included
    (docs/fidelity.md). Terms are named as in :data:`TERM_NAMES`.

    Args:
        config: weights and schedule.
        regions: heads are regions (sigmoid) instead of labels (softmax).
        segmentation_loss: of (logits, target), as nnU-Net builds it; ``official`` has its own and ignores it.
        variant: ``default`` or ``official``.
        background_channel: for ``official`` with label heads, the head whose Dice the released code takes
            from the teacher: 0 in nnU-Net's order, last in the released one. ``None`` treats every head
            as foreground, so that the student's background learns too. Region heads have none.

    Raises:
        ValueError: unknown variant, or ``default`` without a segmentation loss.
    """

    def __init__(
        self,
        config: ObjectiveConfig,
        *,
        regions: bool,
        segmentation_loss: Callable[[Tensor | list[Tensor], Target], Tensor] | None = None,
        variant: str = "default",
        background_channel: int | None = 0,
    ) -> None:
        self.config = config
        self.regions = regions
        self.segmentation_loss = segmentation_loss
        self.variant = variant
        self.official = is_official(variant)
        self.background_channel = None if regions else background_channel
        if segmentation_loss is None and not self.official:
            raise ValueError("the default objective needs a segmentation_loss")

    @property
    def term_names(self) -> tuple[str, ...]:
        """Terms with a weight above 0."""
        return tuple(name for name in TERM_NAMES if getattr(self.config, name) > 0)

    @property
    def needs_taps(self) -> frozenset[str]:
        """Names of the taps, beside the logits, that the active terms look at."""
        return frozenset(tap for name in self.term_names for tap in _TAPS.get(name, ()))

    def __call__(
        self,
        *,
        student: Taps,
        teacher: Taps | None,
        target: Target,
        epoch: float,
        num_epochs: int,
        style_discriminator: nn.Module | None = None,
        train_teacher: bool = False,
        scales: Mapping[str, float] | None = None,
    ) -> ObjectiveOutput:
        """Terms, weights and total of one step.

        Args:
            student: of the masked patch.
            teacher: of the whole patch; ``None`` leaves the segmentation alone.
            target: segmentation as nnU-Net's loss takes it (a list with deep supervision).
            epoch: distillation epochs done; for the ramp.
            num_epochs: distillation epochs in all.
            style_discriminator: one logit per sample from style features; it gets no gradient from here.
            train_teacher: the teacher learns too, from its own segmentation loss.
            scales: factor per term, see :class:`TermBounds`.

        Raises:
            MSTKDError: an active term lacks a tap or the discriminator.
        """
        step = _Step(student, teacher, target, style_discriminator)
        terms = {name: self._compute(name, step) for name in self._active(teacher, train_teacher)}
        scales = scales or {}
        # Two label heads stay raw like regions: see standardised_kl_loss.
        raw_logits = self.regions or _finest(student).shape[1] == 2
        when = (epoch, num_epochs, raw_logits)
        weights = {name: self.config.weight(name, *when) * scales.get(name, 1.0) for name in terms}
        total = torch.stack([weights[name] * value.float() for name, value in terms.items()]).sum()
        return ObjectiveOutput(terms, weights, total)

    def discriminator_loss(self, *, student: Taps, teacher: Taps, style_discriminator: nn.Module) -> Tensor:
        """What the discriminator minimises (teacher's style is 0, student's 1); the networks are detached."""
        return discriminator_loss_on_styles(
            student=student.style,
            teacher=teacher.style,
            style_discriminator=style_discriminator,
            variant=self.variant,
        )

    def _active(self, teacher: Taps | None, train_teacher: bool) -> list[str]:
        if teacher is None:
            return [name for name in self.term_names if name == "segmentation"]
        return [name for name in self.term_names if train_teacher or name != "teacher_segmentation"]

    def _compute(self, name: str, step: _Step) -> Tensor:
        for tap in _TAPS.get(name, ()):
            for owner, taps in (("student", step.student), ("teacher", step.teacher)):
                if getattr(taps, tap, None) is None:
                    raise MSTKDError(
                        f"objective term '{name}' needs {tap}, which the {owner} does not give; "
                        f"set the weight of '{name}' to 0"
                    )
        return getattr(self, f"_{name}")(step)

    # ------------------------------------------------------------ terms, one method each, named as the term

    def _segmentation(self, step: _Step) -> Tensor:
        if not self.official:
            return self.segmentation_loss(step.student.logits, step.target)
        losses = self._dice(step.student, step)
        if self.background_channel is None or step.teacher is None:
            return losses.sum()
        return official_student_dice(losses, self._dice(step.teacher, step), self.background_channel)

    def _teacher_segmentation(self, step: _Step) -> Tensor:
        if not self.official:
            return self.segmentation_loss(step.teacher.logits, step.target)
        return self._dice(step.teacher, step).sum()

    def _dice(self, taps: Taps, step: _Step) -> Tensor:
        return head_dice_losses(logits=_finest(taps), target=step.target, regions=self.regions)

    def _consistency(self, step: _Step) -> Tensor:
        loss = consistency_loss(
            student=_finest(step.student),
            teacher=_finest(step.teacher),
            variant=self.variant,
            regions=self.regions,
            background_channel=self.background_channel,
        )
        if not self.official or self.background_channel is None:
            return loss
        # Released under the name of a background MSE (docs/fidelity.md).
        return loss + self._dice(step.teacher, step)[self.background_channel]

    def _kl(self, step: _Step) -> Tensor:
        return standardised_kl_loss(
            student=_finest(step.student),
            teacher=_finest(step.teacher),
            variant=self.variant,
            regions=self.regions,
            temperature=self.config.temperature if self.regions else self.config.label_temperature,
        )

    def _content(self, step: _Step) -> Tensor:
        return content_loss(student=step.student.content, teacher=step.teacher.content, variant=self.variant)

    def _token_features(self, step: _Step) -> Tensor:
        return token_feature_loss(
            student=step.student.token_features, teacher=step.teacher.token_features, variant=self.variant
        )

    def _attention(self, step: _Step) -> Tensor:
        return attention_extremes_loss(
            student=step.student.attention, teacher=step.teacher.attention, variant=self.variant
        )

    def _gram(self, step: _Step) -> Tensor:
        return gram_matching_loss(
            student=_scales_of_style(step.student),
            teacher=_scales_of_style(step.teacher),
            variant=self.variant,
        )

    def _adversarial(self, step: _Step) -> Tensor:
        if step.style_discriminator is None:
            raise MSTKDError("objective term 'adversarial' needs a style discriminator; set its weight to 0")
        style = step.student.style.float()
        # Detached parameters, so that the student's backward leaves no gradient on the discriminator.
        parameters = {name: p.detach() for name, p in step.style_discriminator.named_parameters()}
        with torch.autocast(style.device.type, enabled=False):
            logit = torch.func.functional_call(step.style_discriminator, parameters, (style,))
        return style_adversarial_loss(student=logit, variant=self.variant)


def _finest(taps: Taps) -> Tensor:
    """Logits at full resolution."""
    return taps.logits if isinstance(taps.logits, Tensor) else taps.logits[0]


def _scales_of_style(taps: Taps) -> list[Tensor]:
    """The released code's "Global_style": bottleneck features, style, content."""
    return [taps.encoded, taps.style, taps.content]
