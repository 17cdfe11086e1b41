"""MST-KD training: a teacher that sees all modalities distils into a student that sees some."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn
from torch._functorch import config as functorch_config

from nnunetv2_mstkd.architectures import MSTKDNet, NetworkTaps, StyleDiscriminator, mstkdnet_kwargs
from nnunetv2_mstkd.architectures.from_plans import CLASS_KWARGS, bottleneck_size, official_kwargs
from nnunetv2_mstkd.distillation import MSTKDObjective, ObjectiveConfig, TermBounds, gradient_shares
from nnunetv2_mstkd.environment import GRADIENT_SHARES_VARIABLE
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.settings import SETTINGS_KEY
from nnunetv2_mstkd.trainers.adversary import StyleAdversary
from nnunetv2_mstkd.trainers.missing_modality import StepLosses, nnUNetTrainerMissingModality, unwrap
from nnunetv2_mstkd.trainers.teacher import FrozenTeacher
from nnunetv2_mstkd.transforms import mask_modalities

NETWORK_CLASS = f"{MSTKDNet.__module__}.{MSTKDNet.__qualname__}"
# Step of the first gradient check in a run: early enough to bound a term before it has done much.
FIRST_CHECK = 20


class nnUNetTrainerMSTKD(nnUNetTrainerMissingModality):
    """MSTKDNet with a warm-started teacher and the default objective.

    The first ``full_phase`` of the epochs trains one network on all modalities. Then a frozen copy of it
    becomes the teacher, and the network goes on as the student, under masking, with its learning rate
    restarted (docs/methods.md). Stock nnU-Net plans are followed with MSTKDNet in place of their network;
    MSTKD plans name it themselves.

    Checkpoints: ``network_weights`` is the student alone. checkpoint_latest and checkpoint_best also carry
    teacher, discriminator, its optimizer and the term bounds, so ``--c`` goes on exactly; checkpoint_final
    holds the student only.

    Attributes (each can be set in the plans, see :class:`nnunetv2_mstkd.settings.Settings`):
        teacher: ``warm_start`` or ``joint`` (two networks learn side by side from the start).
        preset: of MSTKDNet when the plans name another network.
        term_weights: replaces weights of the objective by term name (setting ``weights``).
        gradient_shares_every: iterations between measurements of each term's share of the gradient, by which
            the terms are bounded; 0 is never, and then nothing is bounded.
    """

    teacher: str = "warm_start"
    preset: ClassVar[str] = "nnunet"
    variant: ClassVar[str] = "default"
    full_phase = 0.5
    optimizer_name = "adamw"
    term_weights: Mapping[str, float] | None = None
    gradient_shares_every: int = 250
    renew_discriminator_optimizer: ClassVar[bool] = False

    # ---------------------------------------------------------------- building

    def set_defaults(self) -> None:
        self.initial_lr = 1e-3
        self.weight_decay = 1e-2

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """MSTKDNet as the plans describe it, or shaped after the network that stock plans describe."""
        return get_network_from_plans(
            NETWORK_CLASS,
            cls._network_kwargs(configuration_manager),
            list(CLASS_KWARGS),
            num_input_channels,
            num_output_channels,
            allow_init=True,
            deep_supervision=enable_deep_supervision,
        )

    @classmethod
    def _network_kwargs(cls, configuration: ConfigurationManager) -> dict[str, Any]:
        kwargs, patch_size = configuration.network_arch_init_kwargs, configuration.patch_size
        if configuration.network_arch_class_name == NETWORK_CLASS:
            return kwargs
        settings = configuration.configuration.get(SETTINGS_KEY) or {}
        if (settings.get("preset") or cls.preset) == "official":
            # Its four stages, not the plan's: with the deeper ones of stock plans a patch is a token or two.
            return official_kwargs(patch_size)
        return mstkdnet_kwargs(kwargs, patch_size)

    def _new_network(self) -> nn.Module:
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

    def initialize(self) -> None:
        if self.teacher == "warm_start" and self.phases.full_epochs == 0:
            raise MSTKDError(
                f"teacher 'warm_start' needs a full-modality phase, but full_phase {self.full_phase} of "
                f"{self.num_epochs} epochs leaves none; raise one of them, or set teacher 'joint'"
            )
        self._check_preset()
        self.joint_teacher: nn.Module | None = None
        self.frozen_teacher: FrozenTeacher | None = None
        self._styles: tuple[Tensor, Tensor] | None = None
        self._distillation_steps = 0
        if self._do_i_compile() and hasattr(functorch_config, "donated_buffer"):
            # Gradient shares go through the graph more than once before the step's own backward.
            functorch_config.donated_buffer = False
        super().initialize()
        config = self.objective_config()
        if config.segmentation <= 0:
            raise MSTKDError(
                "weight of term 'segmentation' is 0; all others are measured against it, raise it"
            )
        self.objective = MSTKDObjective(
            config,
            regions=self.label_manager.has_regions,
            segmentation_loss=self.loss,
            variant=self.variant,
        )
        self.bounds = TermBounds(config.caps)
        self.adversary = self._build_adversary() if config.adversarial else None
        self._log_shares_every = int(os.environ.get(GRADIENT_SHARES_VARIABLE, 0))
        if self.is_ddp and self.joint_teacher is not None:
            self.joint_teacher = self.wrap_ddp(self.joint_teacher)

    def full_phase_in_force(self) -> float:
        if self.teacher != "joint":
            return self.full_phase
        if self.settings.full_phase:
            self.print_to_log_file(
                "A joint teacher learns from the start: the setting full_phase is not used."
            )
        return 0.0

    def _check_preset(self) -> None:
        """Refuse plans of another preset than was asked for; the published network has one output."""
        planned = self._network_kwargs(self.configuration_manager)["preset"]
        wanted = self.settings.preset or ("official" if self.preset == "official" else planned)
        if planned != wanted:
            raise MSTKDError(
                f"these plans hold MSTKDNet's preset '{planned}', but '{wanted}' is wanted; plan again with "
                f"nnUNetv2_mstkd plan --preset {wanted}, or train on nnU-Net's own plans"
            )
        if planned == "official":
            self.enable_deep_supervision = False

    def configure_optimizers(self) -> tuple[Any, Any]:
        if self.teacher == "joint":
            self.joint_teacher = self._new_network()
            if self._do_i_compile():
                self.joint_teacher = torch.compile(self.joint_teacher)
        return super().configure_optimizers()

    def trainable_parameters(self) -> list[nn.Parameter]:
        parameters = super().trainable_parameters()
        if self.joint_teacher is not None:
            parameters += [p for p in self.joint_teacher.parameters() if p.requires_grad]
        return parameters

    def _build_adversary(self) -> StyleAdversary:
        network = unwrap(self.network)
        # Of the patch that is trained on: a user may have edited it in the plans.
        size = bottleneck_size(self.configuration_manager.patch_size, network.encoder.strides)
        discriminator = StyleDiscriminator(network.style_channels, size).to(self.device)
        return StyleAdversary(
            discriminator,
            renew_optimizer=self.renew_discriminator_optimizer,
            parallel=self.wrap_ddp(discriminator) if self.is_ddp else None,
        )

    # ---------------------------------------------------------------- training

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self.in_full_phase:
            return
        if self.joint_teacher is not None:
            self.joint_teacher.train()
        elif self.frozen_teacher is None:
            if self.current_epoch != self.phases.full_epochs:
                raise MSTKDError(
                    "this checkpoint holds no teacher (checkpoint_final keeps the student only), so its "
                    "distillation cannot go on; continue from checkpoint_latest.pth or checkpoint_best.pth"
                )
            self.print_to_log_file("A frozen copy of the network becomes the teacher.")
            self.frozen_teacher = self._freeze(unwrap(self.network))

    def _freeze(self, network: nn.Module) -> FrozenTeacher:
        return FrozenTeacher.copy_of(network, compiled=self._do_i_compile())

    def _teacher_taps(self, data: Tensor) -> NetworkTaps:
        if self.frozen_teacher is not None:
            return self.frozen_teacher.taps(data)
        return self.joint_teacher(data, return_taps=True)

    def compute_losses(self, data: Tensor, mask: Tensor, target: Tensor | list[Tensor]) -> StepLosses:
        if self.in_full_phase:
            return super().compute_losses(data, mask, target)
        teacher = self._teacher_taps(data)
        student = self.network(mask_modalities(data, mask), return_taps=True)
        epoch, num_epochs = self.phases.position(self.current_epoch)
        result = self.objective(
            student=student,
            teacher=teacher,
            target=target,
            epoch=epoch,
            num_epochs=num_epochs,
            style_discriminator=self.adversary.discriminator if self.adversary else None,
            train_teacher=self.joint_teacher is not None,
            scales=self.bounds.scales,
        )
        self._styles = (student.style.detach(), teacher.style.detach())
        self._watch_gradients(result.weighted_terms())
        return StepLosses(result.total, result.terms)

    def after_step(self) -> dict[str, Tensor]:
        if self.in_full_phase or self.adversary is None:
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
        if self.frozen_teacher is not None:
            state["teacher"] = self.frozen_teacher.network.state_dict()
        elif self.joint_teacher is not None:
            state["teacher"] = unwrap(self.joint_teacher).state_dict()
        return state

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        super().load_extra_state(state)
        self._distillation_steps = state.get("distillation_steps", 0)
        if "bounds" in state:
            self.bounds.load_state_dict(state["bounds"])
        if self.adversary is not None and "adversary" in state:
            self.adversary.load_state_dict(state["adversary"])
        if "teacher" not in state:
            return
        if self.joint_teacher is None:
            self.frozen_teacher = self._freeze(unwrap(self.network))
        network = unwrap(self.joint_teacher) if self.joint_teacher else self.frozen_teacher.network
        network.load_state_dict(state["teacher"])


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == min(FIRST_CHECK, every - 1)
