"""Distillation inside nnU-Net's loop: a teacher that sees all modalities, a student that sees some."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch._functorch import config as functorch_config

from nnunetv2_mstkd.architectures.discriminators import (
    StyleDiscriminator,
)
from nnunetv2_mstkd.architectures.shapes import run_on_meta
from nnunetv2_mstkd.architectures.taps import (
    NetworkTaps,
)
from nnunetv2_mstkd.environment import GRADIENT_SHARES_VARIABLE
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.mstkd.compared import (
    misfit,
    style_features,
)
from nnunetv2_mstkd.methods.mstkd.objective import (
    MSTKDObjective,
)
from nnunetv2_mstkd.methods.mstkd.weights import (
    TERM_NAMES,
    ObjectiveConfig,
)
from nnunetv2_mstkd.settings import SETTINGS_KEY
from nnunetv2_mstkd.trainers.adversary import StyleAdversary
from nnunetv2_mstkd.trainers.base import (
    unwrap,
)
from nnunetv2_mstkd.trainers.checkpoints import FINAL_NAME
from nnunetv2_mstkd.trainers.gradient_shares import (
    TermBounds,
    gradient_shares,
)
from nnunetv2_mstkd.trainers.missing_modality import (
    nnUNetTrainerMissingModality,
)
from nnunetv2_mstkd.trainers.step import MaskedBatch, StepLosses
from nnunetv2_mstkd.trainers.teaching import Teaching, teaching_class
from nnunetv2_mstkd.trainers.teaching.rehearsal import rehearse

# Step of the first gradient check in a run: early enough to bound a term before it has done much.
FIRST_CHECK = 20


class nnUNetTrainerDistilling(nnUNetTrainerMissingModality):
    """Adds a teacher and the MST-KD objective to training with masked modalities.

    Not a trainer to name with ``-tr``: subclasses build the network, which must return
    :class:`NetworkTaps` for ``forward(x, return_taps=True)``. Terms for which the networks lack the taps
    are switched off, which the log and the stored plans say.

    Checkpoints: ``network_weights`` is the student alone. checkpoint_latest and checkpoint_best also carry
    what the distillation needs to go on exactly with ``--c`` (teacher, discriminator, its optimizer, term
    bounds); checkpoint_final holds the student only.

    Attributes (each can be set in the plans, see :class:`nnunetv2_mstkd.settings.Settings`):
        teacher: ``warm_start``, ``joint``, ``shared`` or a model folder.
        teacher_fold, teacher_checkpoint, init_from_teacher: for a model folder.
        teacher_on_incomplete: ``use`` or ``skip`` what the teacher shows of cases that lack modalities.
        term_weights: replaces weights of the objective by term name (setting ``weights``).
        gradient_shares_every: iterations between measurements of each term's share of the gradient, by which
            the terms are bounded; 0 is never, and then nothing is bounded.

    Attributes of the class alone:
        without: terms that this trainer never computes, whatever the plans say.
        own_teacher: the trainer's teacher is what makes it another one; plans that name another are refused.
    """

    teacher: str = "warm_start"
    teacher_fold: int | str | None = None
    teacher_checkpoint: str = FINAL_NAME
    init_from_teacher: bool = True
    teacher_on_incomplete: str = "use"
    variant: ClassVar[str] = "default"
    without: ClassVar[tuple[str, ...]] = ()
    own_teacher: ClassVar[bool] = False
    full_phase = 0.5
    term_weights: Mapping[str, float] | None = None
    gradient_shares_every: int = 250
    renew_discriminator_optimizer: ClassVar[bool] = False

    # ---------------------------------------------------------------- building

    def new_network(self) -> nn.Module:
        """Another network like the student's, on the device."""
        return self.build_network_architecture(
            self.plans_manager,
            self.configuration_manager,
            self.num_input_channels,
            self.label_manager.num_segmentation_heads,
            self.enable_deep_supervision,
        ).to(self.device)

    def objective_config(self) -> ObjectiveConfig:
        """Weights and schedule, with the settings' own weights put in."""
        return ObjectiveConfig().with_weights(self.term_weights or {})

    def full_phase_in_force(self) -> float:
        if self.teacher == "warm_start":
            return self.full_phase
        if self.teacher != "joint":
            # Their teacher is there from the start; a phase before it is for whoever asks for it.
            return self.settings.full_phase or 0.0
        if self.settings.full_phase:
            self.print_to_log_file(
                "A joint teacher learns from the start: the setting full_phase is not used."
            )
        return 0.0

    def _check_teacher(self) -> None:
        """Refuse plans whose teacher would make this another trainer than its name says."""
        own = type(self).teacher
        if self.own_teacher and self.teacher != own:
            raise MSTKDError(
                f"{type(self).__name__} has the teacher '{own}', but these plans name teacher "
                f"'{self.teacher}'; train them with another trainer, or plan with another name and without it"
            )

    def initialize(self) -> None:
        self._check_teacher()
        if self.is_ddp and self.teacher_on_incomplete == "skip":
            raise MSTKDError(
                "teacher_on_incomplete 'skip' leaves processes with different terms, which then wait for "
                "each other; train on one GPU or set it to 'use'"
            )
        self._styles: tuple[Tensor, Tensor] | None = None
        self._distillation_steps = 0
        self._log_shares_every = int(os.environ.get(GRADIENT_SHARES_VARIABLE, 0))
        measures = self.gradient_shares_every > 0 or self._log_shares_every > 0
        if measures and self._do_i_compile() and hasattr(functorch_config, "donated_buffer"):
            # Gradient shares go through the graph more than once before the step's own backward.
            functorch_config.donated_buffer = False
        super().initialize()
        self.objective = MSTKDObjective(
            self.config,
            regions=self.label_manager.has_regions,
            segmentation_loss=self.loss,
            variant=self.variant,
        )
        self.tap_request = {"return_taps": self.objective.taps}
        self.bounds = TermBounds(self.config.caps)
        self.adversary = self._build_adversary() if self.config.adversarial else None
        self.teaching.distribute()

    def configure_optimizers(self) -> tuple[Any, Any]:
        # The student exists now, and what learns beside it has to be known to the optimizer.
        config = self.objective_config().with_weights(dict.fromkeys(self.without, 0.0))
        if config.segmentation <= 0:
            raise MSTKDError(
                "weight of term 'segmentation' is 0; all others are measured against it, raise it"
            )
        self.teaching = teaching_class(self.teacher)(self) if config.distils else Teaching(self)
        if self.teacher in ("joint", "shared") and config.distils and config.teacher_segmentation <= 0:
            raise MSTKDError(
                f"weight of term 'teacher_segmentation' is 0: the teacher '{self.teacher}' would never learn;"
                " raise it, or take the teacher 'warm_start'"
            )
        self.teaching.build()
        self.config = self._without_misfits(config)
        return super().configure_optimizers()

    def _without_misfits(self, config: ObjectiveConfig) -> ObjectiveConfig:
        """Switch off the terms that these two networks cannot be compared by."""
        shape = (2, self.num_input_channels, *self.configuration_manager.patch_size)
        self._student_shapes: NetworkTaps = run_on_meta(unwrap(self.network), shape, return_taps=True)
        teacher = self.teaching.shapes(self._student_shapes)
        active = [name for name in TERM_NAMES if getattr(config, name) > 0]
        found = {name: misfit(name, self._student_shapes, teacher) for name in active}
        off = {name: reason for name, reason in found.items() if reason}
        if not off:
            return config
        for name, reason in off.items():
            self.print_to_log_file(f"Term '{name}' is off: {reason}.")
        self._record_terms_off(off)
        return config.with_weights(dict.fromkeys(off, 0.0))

    def _record_terms_off(self, off: Mapping[str, str]) -> None:
        """Into the plans that nnU-Net stores with the model."""
        known = dict(self.configuration_manager.configuration.get(SETTINGS_KEY) or {})
        weights = {**(known.get("weights") or {}), **dict.fromkeys(off, 0.0)}
        stored = self.plans_manager.plans["configurations"][self.configuration_name]
        stored[SETTINGS_KEY] = {**known, "weights": weights, "terms_off": dict(off)}

    def trainable_parameters(self) -> list[nn.Parameter]:
        return super().trainable_parameters() + self.teaching.parameters()

    def _build_adversary(self) -> StyleAdversary:
        _, channels, *size = style_features(self._student_shapes).shape
        discriminator = StyleDiscriminator(channels, size).to(self.device)
        parallel = self.wrap_ddp(discriminator) if self.is_ddp else None
        return StyleAdversary(
            discriminator, renew_optimizer=self.renew_discriminator_optimizer, parallel=parallel
        )

    # ---------------------------------------------------------------- training

    @property
    def distils_now(self) -> bool:
        """Whether the running epoch has a teacher."""
        return self.objective.distils and not self.in_full_phase

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.objective.distils and self.in_full_phase:
            rehearse(self)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self.distils_now:
            self.teaching.start_epoch()

    def compute_losses(self, batch: MaskedBatch) -> StepLosses:
        if not self.distils_now:
            return super().compute_losses(batch)
        passes = self.teaching.passes(batch)
        samples = self._samples_with_teacher(batch)
        epoch, num_epochs = self.phases.position(self.current_epoch)
        result = self.objective(
            student=passes.student,
            teacher=passes.teacher,
            target=batch.target,
            epoch=epoch,
            num_epochs=num_epochs,
            style_discriminator=self.adversary.discriminator if self.adversary else None,
            train_teacher=self.teaching.learns,
            scales=self.bounds.scales,
            samples=samples,
        )
        self._keep_styles(passes.student, passes.teacher, samples)
        self._watch_gradients(result.weighted_terms())
        done = [getattr(self.config, name) * value for name, value in passes.done.items()]
        return StepLosses(result.total, {**result.terms, **passes.done}, sum(done) if done else None)

    def _samples_with_teacher(self, batch: MaskedBatch) -> Tensor | None:
        """Indices of the samples in which the teacher counts; ``None`` is all."""
        if self.teacher_on_incomplete == "use" or all(batch.complete):
            return None
        indices = [index for index, complete in enumerate(batch.complete) if complete]
        return torch.tensor(indices, dtype=torch.long, device=self.device)

    def _keep_styles(self, student: NetworkTaps, teacher: NetworkTaps, samples: Tensor | None) -> None:
        """For the discriminator's turn, which comes after the student's step."""
        if self.adversary is None or (samples is not None and not len(samples)):
            return
        which = slice(None) if samples is None else samples
        self._styles = style_features(student).detach()[which], style_features(teacher).detach()[which]

    def after_step(self) -> dict[str, Tensor]:
        if self.adversary is None or self._styles is None:
            return {}
        student_style, teacher_style = self._styles
        self._styles = None
        return {"discriminator": self.adversary.step(student_style, teacher_style)}

    def _watch_gradients(self, weighted_terms: Mapping[str, Tensor]) -> None:
        """Now and then: each term's gradient norm as a share of the segmentation's, its cosine, its bound."""
        step = self._distillation_steps
        self._distillation_steps += 1
        # Asking for a log must not change the training: the bounds keep their own pace.
        bounding = _is_due(step, self.gradient_shares_every)
        if not bounding and not _is_due(step, self._log_shares_every):
            return
        # Scaled like the loss itself: half-precision gradients of small terms would underflow otherwise.
        scale = self.grad_scaler.get_scale() if self.grad_scaler is not None else 1.0
        parameters = [p for p in unwrap(self.network).parameters() if p.requires_grad]
        scaled = {name: value * scale for name, value in weighted_terms.items()}
        shares = gradient_shares(scaled, reference="segmentation", parameters=parameters)
        for name, share in shares.items():
            self.history.log(
                self.current_epoch,
                {f"gradient share/{name}": share.share, f"gradient cosine/{name}": share.cosine},
            )
        shown = {name: f"{s.share:.3g} (cosine {s.cosine:+.2f})" for name, s in shares.items()}
        self.print_to_log_file("gradient shares of the segmentation gradient", shown)
        for line in self.bounds.update(shares) if bounding else ():
            self.print_to_log_file(line)

    # ---------------------------------------------------------------- checkpoints

    def extra_state(self, final: bool) -> dict[str, Any]:
        state = super().extra_state(final)
        if final:
            return state
        state["distillation_steps"] = self._distillation_steps
        state["bounds"] = self.bounds.state_dict()
        if self.adversary is not None:
            state["adversary"] = self.adversary.state_dict()
        teacher = self.teaching.state_dict()
        return state if teacher is None else {**state, "teacher": teacher}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        super().load_extra_state(state)
        self._distillation_steps = state.get("distillation_steps", 0)
        if "bounds" in state:
            self.bounds.load_state_dict(state["bounds"])
        if self.adversary is not None and "adversary" in state:
            self.adversary.load_state_dict(state["adversary"])
        if "teacher" in state:
            self.teaching.load_state_dict(state["teacher"])


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == min(FIRST_CHECK, every - 1)
