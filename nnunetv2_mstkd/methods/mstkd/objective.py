"""The objective of MST-KD training: named terms, weighted and added up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.discriminators import judged
from nnunetv2_mstkd.architectures.taps import NetworkTaps
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.losses.features import content_loss, token_feature_loss
from nnunetv2_mstkd.losses.logits import consistency_loss, foreground_kl_loss, standardised_kl_loss
from nnunetv2_mstkd.losses.pairs import is_official
from nnunetv2_mstkd.losses.style import (
    gram_matching_loss,
    style_adversarial_loss,
)
from nnunetv2_mstkd.methods.mstkd.attention import attention_extremes_loss
from nnunetv2_mstkd.methods.mstkd.compared import bottleneck_maps, compared, misfit, style_features, taps_of
from nnunetv2_mstkd.methods.mstkd.more_vs_fewer import more_vs_fewer_loss
from nnunetv2_mstkd.methods.mstkd.official_dice import head_dice_losses, official_student_dice
from nnunetv2_mstkd.methods.mstkd.weights import SEGMENTATION_TERMS, TERM_NAMES, ObjectiveConfig

Target = Tensor | list[Tensor]


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
    student: NetworkTaps
    teacher: NetworkTaps | None
    target: Target
    style_discriminator: nn.Module | None
    samples: Tensor | None
    segmented: Tensor | None = None

    @property
    def taught(self) -> NetworkTaps:
        """The teacher, where a term needs one."""
        assert self.teacher is not None, "no term that needs a teacher is active without one"
        return self.teacher

    @cached_property
    def pair(self) -> tuple[NetworkTaps, NetworkTaps]:
        """Student and teacher in the samples that are compared."""
        if self.samples is None:
            return self.student, self.taught
        return self.student.select(self.samples), self.taught.select(self.samples)

    @property
    def finest_target(self) -> Tensor:
        """Full resolution, of the samples that are compared."""
        finest = self.target if isinstance(self.target, Tensor) else self.target[0]
        return finest if self.samples is None else finest[self.samples]


class MSTKDObjective:
    """Segmentation plus every distillation term whose weight is above 0.

    ``default`` is what the method means, ``official`` what the released code computes, quirks included
    (docs/fidelity.md). Terms are named as in :data:`TERM_NAMES`.

    Args:
        config: weights and schedule.
        regions: heads are regions (sigmoid) instead of labels (softmax).
        segmentation_loss: of (logits, target), as nnU-Net builds it; ``official`` has its own and ignores it.
        variant: ``default`` or ``official``.
        ignore_label: voxels of this label have no segmentation; ``None`` if there is none.
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
        ignore_label: int | None = None,
        background_channel: int | None = 0,
    ) -> None:
        self.config = config
        self.regions = regions
        self.segmentation_loss = segmentation_loss
        self.variant = variant
        self.official = is_official(variant)
        self.ignore_label = ignore_label
        self.background_channel = None if regions else background_channel
        if segmentation_loss is None and not self.official:
            raise ValueError("the default objective needs a segmentation_loss")

    @property
    def term_names(self) -> tuple[str, ...]:
        """Terms with a weight above 0."""
        return tuple(name for name in TERM_NAMES if getattr(self.config, name) > 0)

    @property
    def distils(self) -> bool:
        """Whether any active term needs a teacher."""
        return self.config.distils

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of the inner features that the active terms compare."""
        return taps_of(self.term_names)

    def __call__(
        self,
        *,
        student: NetworkTaps,
        teacher: NetworkTaps | None,
        target: Target,
        epoch: float,
        num_epochs: int,
        style_discriminator: nn.Module | None = None,
        train_teacher: bool = False,
        scales: Mapping[str, float] | None = None,
        samples: Tensor | None = None,
        segmented: Tensor | None = None,
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
            samples: indices (n,) of the samples in which the student learns from the teacher; ``None`` is
                all of them.
            segmented: indices (n,) of the samples that the segmentation losses of ``default`` see; ``None``
                is all of them.

        Raises:
            MSTKDError: an active term lacks a tap or the discriminator.
        """
        step = _Step(student, teacher, target, style_discriminator, samples, segmented)
        distil = samples is None or len(samples) > 0
        active = self._active(teacher, train_teacher, distil)
        terms = {name: self._compute(name, step) for name in active}
        scales = scales or {}
        # Two label heads stay raw like regions: see standardised_kl_loss.
        raw_logits = self.regions or student.finest.shape[1] == 2
        when = (epoch, num_epochs, raw_logits)
        weights = {name: self.config.weight(name, *when) * scales.get(name, 1.0) for name in terms}
        total = torch.stack([weights[name] * value.float() for name, value in terms.items()]).sum()
        return ObjectiveOutput(terms, weights, total)

    def _active(self, teacher: NetworkTaps | None, train_teacher: bool, distil: bool) -> list[str]:
        active = {"segmentation"}
        if teacher is not None:
            active |= {"teacher_segmentation"} if train_teacher else set()
            active |= {*self.term_names} - SEGMENTATION_TERMS if distil else set()
        return [name for name in self.term_names if name in active]

    def _compute(self, name: str, step: _Step) -> Tensor:
        problem = None if step.teacher is None else misfit(name, step.student, step.teacher)
        if problem:
            raise MSTKDError(f"objective term '{name}': {problem}; set the weight of '{name}' to 0")
        return getattr(self, f"_{name}")(step)

    # ------------------------------------------------------------ terms, one method each, named as the term

    def _segmentation(self, step: _Step) -> Tensor:
        if not self.official:
            return self._loss_of_nnunet(step.student, step)
        losses = self._dice(step.student, step)
        if self.background_channel is None or step.teacher is None:
            return losses.sum()
        return official_student_dice(losses, self._dice(step.teacher, step), self.background_channel)

    def _teacher_segmentation(self, step: _Step) -> Tensor:
        if not self.official:
            return self._loss_of_nnunet(step.taught, step)
        return self._dice(step.taught, step).sum()

    def _loss_of_nnunet(self, taps: NetworkTaps, step: _Step) -> Tensor:
        assert self.segmentation_loss is not None, "__init__ has asked for it"
        if step.segmented is None:
            return self.segmentation_loss(taps.logits, step.target)
        return self.segmentation_loss(_of(taps.logits, step.segmented), _of(step.target, step.segmented))

    def _dice(self, taps: NetworkTaps, step: _Step) -> Tensor:
        return head_dice_losses(logits=taps.finest, target=step.target, regions=self.regions)

    def _consistency(self, step: _Step) -> Tensor:
        student, teacher = (taps.finest for taps in step.pair)
        loss = consistency_loss(
            student=student,
            teacher=teacher,
            variant=self.variant,
            regions=self.regions,
            background_channel=self.background_channel,
        )
        if not self.official or self.background_channel is None:
            return loss
        # Released under the name of a background MSE (docs/fidelity.md).
        return loss + self._dice(step.taught, step)[self.background_channel]

    def _kl(self, step: _Step) -> Tensor:
        student, teacher = (taps.finest for taps in step.pair)
        return standardised_kl_loss(
            student=student,
            teacher=teacher,
            variant=self.variant,
            regions=self.regions,
            temperature=self.config.temperature if self.regions else self.config.label_temperature,
        )

    def _content(self, step: _Step) -> Tensor:
        return content_loss(**_features("content", step), variant=self.variant)

    def _token_features(self, step: _Step) -> Tensor:
        return token_feature_loss(**_features("token_features", step), variant=self.variant)

    def _attention(self, step: _Step) -> Tensor:
        return attention_extremes_loss(**_features("attention", step), variant=self.variant)

    def _gram(self, step: _Step) -> Tensor:
        # The released code's "Global_style": bottleneck features, style, content, in this order.
        student, teacher = (list(bottleneck_maps(taps)) for taps in step.pair)
        return gram_matching_loss(student=student, teacher=teacher, variant=self.variant)

    def _adversarial(self, step: _Step) -> Tensor:
        if step.style_discriminator is None:
            raise MSTKDError("objective term 'adversarial' needs a style discriminator; set its weight to 0")
        logit = judged(step.style_discriminator, style_features(step.pair[0]))
        return style_adversarial_loss(student=logit, variant=self.variant)

    def _foreground_kl(self, step: _Step) -> Tensor:
        student, teacher = (taps.finest for taps in step.pair)
        return foreground_kl_loss(student=student, teacher=teacher, regions=self.regions)

    def _more_vs_fewer(self, step: _Step) -> Tensor:
        poorer, richer = (taps.finest for taps in step.pair)
        return more_vs_fewer_loss(
            richer=richer,
            poorer=poorer,
            target=step.finest_target,
            regions=self.regions,
            ignore_label=self.ignore_label,
        )


def _of(levels: Target, samples: Tensor) -> Target:
    return [level[samples] for level in levels] if isinstance(levels, list) else levels[samples]


def _features(term: str, step: _Step) -> dict[str, Any]:
    """The one tap that a term compares, of student and teacher."""
    student, teacher = (next(iter(compared(term, taps).values())) for taps in step.pair)
    return {"student": student, "teacher": teacher}
