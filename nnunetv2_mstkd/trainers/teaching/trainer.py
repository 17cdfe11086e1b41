"""A teacher that sees all modalities beside a student that sees some."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.shapes import run_on_meta
from nnunetv2_mstkd.architectures.taps import NetworkTaps, Request
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.models.folder import FINAL_CHECKPOINT, Fold
from nnunetv2_mstkd.settings import (
    JOINT,
    NESTED,
    SHARED,
    TEACHERS,
    WARM_START,
    Setting,
    checkpoint_name,
    fold_of_a_model,
    is_number,
    one_of,
    true_or_false,
)
from nnunetv2_mstkd.trainers.base import unwrap
from nnunetv2_mstkd.trainers.missing_modality import nnUNetTrainerMissingModality
from nnunetv2_mstkd.trainers.step import SEGMENTATION, MaskedBatch, StepLosses
from nnunetv2_mstkd.trainers.teaching.base import TEACHER_SEGMENTATION, Passes, TeacherChoice, Teaching
from nnunetv2_mstkd.trainers.teaching.finished_model import FinishedModel
from nnunetv2_mstkd.trainers.teaching.own_teachers import Joint, Nested, Shared, WarmStart
from nnunetv2_mstkd.trainers.teaching.rehearsal import rehearse

# A name is one of these; anything else is the folder of a finished model.
_OWN_TEACHERS: dict[str, type[Teaching]] = {
    WARM_START: WarmStart,
    JOINT: Joint,
    SHARED: Shared,
    NESTED: Nested,
}


def _is_teacher(value: Any) -> bool:
    """One of the names, or what can only be meant as a folder: a mistyped name is neither."""
    if not isinstance(value, str) or not value.strip():
        return False
    return value in TEACHERS or "/" in value or "\\" in value or Path(value).is_dir()


class nnUNetTrainerTaught(nnUNetTrainerMissingModality):
    """Adds a teacher to training with masked modalities; a method says what the student learns from it.

    Not a trainer to name with ``-tr``. A method builds a network that returns :class:`NetworkTaps` for
    ``forward(x, return_taps=True)``, and overrides :meth:`taught_losses`.

    Checkpoints: ``network_weights`` is the student alone. checkpoint_latest and checkpoint_best also carry
    what the teaching needs to go on exactly with ``--c`` (teacher, discriminators, their optimizers);
    checkpoint_final holds the student only.

    Settings, beside those of :class:`nnUNetTrainerMissingModality`:
        teacher: where the teacher comes from: ``warm_start`` (a frozen copy of the network after its
            full-modality phase), ``joint`` (a second network that learns too), ``shared`` (the network itself
            on the whole patch), ``nested`` (the network itself on the same patch with more modalities, in one
            batch), or the folder of a finished model.
        teacher_fold: of that model; by default the fold that is trained.
        teacher_checkpoint: of that fold; by default checkpoint_final.pth.
        init_from_teacher: start from that model's weights wherever names and shapes agree, unless ``init``
            names others.
        teacher_on_incomplete: whether the student learns from the teacher in cases that lack modalities
            (``use``), or from the segmentation alone (``skip``).
        terms_off: written by training: terms that it switched off, and why.
        unlabelled_share: share of the samples of a batch that are of cases without a segmentation, where a
            trainer takes such; one sample at least has one.

    Attributes of the class:
        own_teacher: the trainer's teacher is what makes it another one; plans that name another are refused.
        teacher_gets_gradients: the method's terms lead gradients into the teacher too.
        takes_unlabelled: :meth:`taught_losses` leaves samples without a segmentation (``batch.segmented``) to
            the terms that compare student and teacher.
    """

    own_settings: ClassVar[Mapping[str, Setting]] = {
        "teacher": Setting(f"one of {', '.join(TEACHERS)}, or a model folder", _is_teacher),
        "teacher_fold": fold_of_a_model().only_with_a_model("teacher"),
        "teacher_checkpoint": checkpoint_name().only_with_a_model("teacher"),
        "init_from_teacher": true_or_false().only_with_a_model("teacher"),
        "teacher_on_incomplete": one_of(("use", "skip")),
        "unlabelled_share": Setting("a number from 0 to below 1", lambda v: is_number(v) and 0 <= v < 1),
        "terms_off": Setting("a dict of terms to reasons", lambda v: isinstance(v, Mapping)),
    }
    default_weights: ClassVar[Mapping[str, float]] = {SEGMENTATION: 1.0, TEACHER_SEGMENTATION: 1.0}
    own_teacher: ClassVar[bool] = False
    teacher_gets_gradients: ClassVar[bool] = False

    full_phase = 0.5
    teacher: str = WARM_START
    teacher_fold: Fold | None = None
    teacher_checkpoint: str = FINAL_CHECKPOINT
    init_from_teacher: bool = True
    teacher_on_incomplete: str = "use"
    takes_unlabelled: ClassVar[bool] = False
    unlabelled_share = 0.5

    # ---------------------------------------------------------------- what a method says

    @property
    def tap_request(self) -> Request:
        """The taps that the method's terms compare."""
        return True

    def taught_losses(self, batch: MaskedBatch, passes: Passes, samples: Tensor | None) -> StepLosses:
        """Losses of a step with a teacher.

        Args:
            batch: whole patches, masks and targets.
            passes: what student and teacher show of it.
            samples: indices (n,) of the samples in which the student learns from the teacher; ``None`` is
                all of them.
        """
        raise NotImplementedError

    def misfits(self, student: NetworkTaps, teacher: NetworkTaps) -> dict[str, str]:
        """Terms by which these two cannot be compared, and why; of tensors without storage."""
        return {}

    # ---------------------------------------------------------------- building

    @classmethod
    def needs(cls) -> tuple[str, ...]:
        return ("teacher", "second pass") if _distils(cls.weights_by_default()) else ()

    @property
    def distils(self) -> bool:
        """Whether any term needs a teacher, or pairs are made with or without one."""
        return self.teacher == NESTED or _distils(self.weights)

    def why_nothing_unlabelled(self) -> str | None:
        if not self.takes_unlabelled or not self.distils:
            return super().why_nothing_unlabelled()
        if self.teacher != WARM_START and self.teacher in TEACHERS:
            return f"a teacher '{self.teacher}' learns from segmentations itself"
        if self.unlabelled_share == 0 or self.batch_size < 2:
            return f"unlabelled_share {self.unlabelled_share:g} of a batch of {self.batch_size} leaves none"
        return None

    def full_phase_in_force(self) -> float:
        if self.teacher in (WARM_START, NESTED):
            return self.full_phase
        if self.teacher != JOINT:
            # Their teacher is there from the start; a phase before it is for whoever asks for it.
            return self.settings.get("full_phase", 0.0)
        if self.settings.get("full_phase"):
            self.print_to_log_file(
                "A joint teacher learns from the start: the setting full_phase is not used."
            )
        return 0.0

    def how_to_get_a_full_phase(self) -> str:
        if self.teacher == JOINT:
            return "a joint teacher learns from the start: set another teacher"
        return super().how_to_get_a_full_phase()

    def initialize(self) -> None:
        own = type(self).teacher
        if self.own_teacher and self.teacher != own:
            raise MSTKDError(
                f"{type(self).__name__} has the teacher '{own}', but these plans name teacher "
                f"'{self.teacher}'; train them with another trainer, or plan with another name and without it"
            )
        if self.is_ddp and self.teacher_on_incomplete == "skip":
            raise MSTKDError(
                "teacher_on_incomplete 'skip' leaves processes with different terms, which then wait for "
                "each other; train on one GPU or set it to 'use'"
            )
        super().initialize()
        self.teaching.distribute()

    def build_beside(self) -> None:
        super().build_beside()
        if self.weights[SEGMENTATION] <= 0:
            raise MSTKDError(
                "weight of term 'segmentation' is 0; all others are measured against it, raise it"
            )
        if self.teacher in (JOINT, SHARED) and self.distils and self.weights[TEACHER_SEGMENTATION] <= 0:
            raise MSTKDError(
                f"weight of term 'teacher_segmentation' is 0: the teacher '{self.teacher}' would never learn;"
                " raise it, or take the teacher 'warm_start'"
            )
        choice = TeacherChoice(
            self.teacher,
            self.teacher_fold,
            self.teacher_checkpoint,
            self.init_from_teacher and self.init is None,
            self.teacher_gets_gradients,
        )
        kind = _OWN_TEACHERS.get(self.teacher, FinishedModel) if self.distils else Teaching
        self.teaching = kind(self, choice)
        self.teaching.build()
        self._switch_off_misfits()

    def _switch_off_misfits(self) -> None:
        """Switch off the terms that these two networks cannot be compared by."""
        shape = (2, self.num_input_channels, *self.configuration_manager.patch_size)
        self.student_shapes: NetworkTaps = run_on_meta(unwrap(self.network), shape, return_taps=True)
        found = self.misfits(self.student_shapes, self.teaching.shapes(self.student_shapes))
        off = {name: reason for name, reason in found.items() if self.weights[name] > 0}
        if not off:
            return
        for name, reason in off.items():
            self.print_to_log_file(f"Term '{name}' is off: {reason}.")
        self.weights |= dict.fromkeys(off, 0.0)
        self.switched_off = frozenset(off)
        weights = {**(self.settings.get("weights") or {}), **dict.fromkeys(off, 0.0)}
        self.store_settings({"weights": weights, "terms_off": off})

    def trainable_parameters(self) -> list[nn.Parameter]:
        return super().trainable_parameters() + self.teaching.parameters()

    # ---------------------------------------------------------------- training

    @property
    def distils_now(self) -> bool:
        """Whether the running epoch has a teacher."""
        return self.distils and not self.in_full_phase

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.distils and self.in_full_phase:
            rehearse(self, self.teaching)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self.distils_now:
            self.teaching.start_epoch()

    def compute_losses(self, batch: MaskedBatch) -> StepLosses:
        if not self.distils_now:
            return super().compute_losses(batch)
        batch = self.teaching.arranged(batch)
        passes = self.teaching.run(batch, self.tap_request)
        losses = self.taught_losses(batch, passes, self._samples_with_teacher(batch))
        if not passes.done:
            return losses
        done = torch.stack([self.weights[name] * value for name, value in passes.done.items()]).sum()
        return StepLosses(losses.total, {**losses.terms, **passes.done}, done)

    def _samples_with_teacher(self, batch: MaskedBatch) -> Tensor | None:
        """Indices of the samples in which the teacher counts; ``None`` is all."""
        # Where nobody has a leader, all are their own: the terms are 0, and all processes have the same ones.
        indices = batch.followers or list(range(len(batch.complete)))
        if self.teacher_on_incomplete == "skip":
            indices = [index for index in indices if batch.complete[index]]
        if len(indices) == len(batch.complete):
            return None
        return torch.tensor(indices, dtype=torch.long, device=self.device)

    # ---------------------------------------------------------------- checkpoints

    def extra_state(self, final: bool) -> dict[str, Any]:
        state = super().extra_state(final)
        teacher = None if final else self.teaching.state_dict()
        if teacher is None:
            return state
        return {**state, "teacher": teacher, "teacher_kind": self._kind}

    @property
    def _kind(self) -> str:
        return self.teacher if self.teacher in TEACHERS else "a finished model"

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        super().load_extra_state(state)
        if "teacher" in state:
            began = state.get("teacher_kind", self._kind)
            if began != self._kind:
                raise MSTKDError(
                    f"this training began with another teacher ({began}, now {self._kind}); plan as before,"
                    " or start anew, without --c"
                )
            self.teaching.load_state_dict(state["teacher"])


def _distils(weights: Mapping[str, float]) -> bool:
    own = (SEGMENTATION, TEACHER_SEGMENTATION)
    return any(weight > 0 for name, weight in weights.items() if name not in own)
