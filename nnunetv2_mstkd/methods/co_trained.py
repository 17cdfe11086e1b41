"""Base of methods in which two networks of one kind learn side by side and pull each other (SMU-Net, ACN)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.discriminators import judged
from nnunetv2_mstkd.architectures.taps import NetworkTaps, Request, size_misfit
from nnunetv2_mstkd.losses.co_training import RAMP_EPOCHS, mutual_consistency_loss
from nnunetv2_mstkd.losses.schedules import sigmoid_rampup
from nnunetv2_mstkd.losses.style import style_adversarial_loss
from nnunetv2_mstkd.settings import JOINT
from nnunetv2_mstkd.trainers.phases import PhasedPolyLRScheduler
from nnunetv2_mstkd.trainers.step import SEGMENTATION, MaskedBatch, StepLosses
from nnunetv2_mstkd.trainers.teaching.base import TEACHER_SEGMENTATION, Passes
from nnunetv2_mstkd.trainers.teaching.trainer import nnUNetTrainerTaught

CONSISTENCY = "consistency"


class nnUNetTrainerCoTrained(nnUNetTrainerTaught):
    """A teacher that learns too, mutual consistency, and discriminators that the student tries to pass.

    Optimizer, schedule and ramp are those of both releases. Another teacher can be set in the plans; one that
    is frozen is not pulled, and its segmentation is no term.

    Attributes of the class:
        compared: for each term that looks inside, the tap of the student and that of the teacher.
    """

    compared: ClassVar[Mapping[str, tuple[str, str]]] = {}
    teacher = JOINT
    teacher_gets_gradients = True
    full_phase = 0.0
    own_optimizer = (torch.optim.Adam, {})
    gradient_clip = None

    def set_defaults(self) -> None:
        self.initial_lr = 1e-4
        self.weight_decay = 1e-5

    def build_lr_scheduler(self) -> PhasedPolyLRScheduler:
        # Both scripts step their scheduler before the epoch.
        return PhasedPolyLRScheduler(
            self.optimizer, self.initial_lr, self.phases, lead=1, restart=self.lr_restart
        )

    # ---------------------------------------------------------------- what a method says

    def own_losses(self, student: NetworkTaps, teacher: NetworkTaps) -> dict[str, Tensor]:
        """The method's terms that count (see ``self.counts``), by name."""
        raise NotImplementedError

    def judged_features(self, student: NetworkTaps, teacher: NetworkTaps) -> dict[str, dict[str, Tensor]]:
        """For each term of an adversary: what the student and the teacher give it to judge."""
        raise NotImplementedError

    # ---------------------------------------------------------------- training

    def misfits(self, student: NetworkTaps, teacher: NetworkTaps) -> dict[str, str]:
        found = {}
        for term, (of_student, of_teacher) in self.compared.items():
            for owner, taps, name in (("student", student, of_student), ("teacher", teacher, of_teacher)):
                if name not in taps.inner:
                    found[term] = f"the {owner}'s network shows no {name}"
            if term not in found:
                pair = {of_student: student.inner[of_student]}, {of_student: teacher.inner[of_teacher]}
                found[term] = size_misfit(*pair) or ""
        return {term: reason for term, reason in found.items() if reason}

    @property
    def tap_request(self) -> Request:
        return tuple(
            dict.fromkeys(tap for term, taps in self.compared.items() if self.counts(term) for tap in taps)
        )

    def weights_now(self) -> dict[str, float]:
        epoch, _ = self.phases.position(self.current_epoch)
        ramp = sigmoid_rampup(epoch, RAMP_EPOCHS)
        return {**self.weights, CONSISTENCY: ramp * self.weights[CONSISTENCY]}

    def taught_losses(self, batch: MaskedBatch, passes: Passes, samples: Tensor | None) -> StepLosses:
        losses = {SEGMENTATION: self.loss(passes.student.logits, batch.target)}
        if self.teaching.learns:
            losses[TEACHER_SEGMENTATION] = self.loss(passes.teacher.logits, batch.target)
        if samples is None or len(samples):
            both = (passes.student, passes.teacher)
            student, teacher = both if samples is None else (taps.select(samples) for taps in both)
            if self.counts(CONSISTENCY):
                losses[CONSISTENCY] = mutual_consistency_loss(
                    student=student.finest, teacher=teacher.finest, regions=self.label_manager.has_regions
                )
            losses |= self.own_losses(student, teacher)
            losses |= self._adversarial_losses(student, teacher)
        return self.weighted(losses)

    def _adversarial_losses(self, student: NetworkTaps, teacher: NetworkTaps) -> dict[str, Tensor]:
        """What the student pays for being recognised; keeps the features for the discriminators' turn."""
        losses: dict[str, Tensor] = {}
        if not self.adversaries:
            return losses
        for term, features in self.judged_features(student, teacher).items():
            name = f"{term}_discriminator"
            if name in self.adversaries:
                logits = judged(self.adversaries[name].discriminator, features["student"])
                losses[term] = style_adversarial_loss(student=logits)
                self.step_state.judged[name] = {role: f.detach() for role, f in features.items()}
        return losses

    def add_discriminator(self, term: str, discriminator: nn.Module, loss: Any, **options: Any) -> None:
        """A discriminator for an adversarial term that counts; as released, its Adam is new in every step."""
        if self.distils and self.weights[term] > 0:
            self.add_adversary(f"{term}_discriminator", discriminator, loss, renew_optimizer=True, **options)

    @classmethod
    def needs(cls) -> tuple[str, ...]:
        return (*super().needs(), "discriminator")
