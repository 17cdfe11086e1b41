"""MST-KD training: the objective beside a teacher, for MSTKDNet and for nnU-Net's own networks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn
from torch._functorch import config as functorch_config

from nnunetv2_mstkd.architectures.discriminators import StyleDiscriminator
from nnunetv2_mstkd.architectures.taps import NetworkTaps, Request, with_taps
from nnunetv2_mstkd.environment import GRADIENT_SHARES_VARIABLE
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.losses.style import discriminator_loss_on_styles
from nnunetv2_mstkd.methods.mstkd.compared import misfit, style_features
from nnunetv2_mstkd.methods.mstkd.network import NETWORK_CLASS
from nnunetv2_mstkd.methods.mstkd.objective import MSTKDObjective
from nnunetv2_mstkd.methods.mstkd.sizes import CLASS_KWARGS, mstkdnet_kwargs, official_kwargs
from nnunetv2_mstkd.methods.mstkd.weights import TERM_NAMES, ObjectiveConfig
from nnunetv2_mstkd.settings import NESTED, PRESETS, SETTINGS_KEY, Setting, one_of, whole_number
from nnunetv2_mstkd.trainers.base import OPTIMIZERS, unwrap
from nnunetv2_mstkd.trainers.gradient_shares import GradientWatch, TermBounds
from nnunetv2_mstkd.trainers.step import SEGMENTATION, MaskedBatch, StepLosses
from nnunetv2_mstkd.trainers.teaching.base import Passes
from nnunetv2_mstkd.trainers.teaching.trainer import nnUNetTrainerTaught

_DISCRIMINATOR = "discriminator"


class nnUNetTrainerMSTKDBase(nnUNetTrainerTaught):
    """The MST-KD objective for any network that shows its logits, whatever else it shows.

    Not a trainer to name with ``-tr``. Terms for which the networks lack the taps are switched off, which the
    log and the stored plans say.

    Settings, beside those of :class:`nnUNetTrainerTaught`:
        weights: of single terms, by name; in place of those of the objective.
        gradient_shares_every: iterations between measurements of each term's share of the gradient, by which
            the terms are bounded; 0 is never, and then nothing is bounded.

    Attributes of the class:
        variant: of the objective, ``default`` or ``official``.
        without: terms that this trainer never computes, whatever the plans say.
        renew_discriminator_optimizer: see :class:`Adversary`.
    """

    reference: ClassVar[str] = (
        "Zhu et al. Bridging the Gap in Missing Modalities: Leveraging Knowledge Distillation and Style "
        "Matching for Brain Tumor Segmentation. 2025. arXiv:2507.22626"
    )
    own_settings: ClassVar[Mapping[str, Setting]] = {"gradient_shares_every": whole_number(0)}
    default_weights: ClassVar[Mapping[str, float]] = ObjectiveConfig().weights()
    variant: ClassVar[str] = "default"
    without: ClassVar[tuple[str, ...]] = ()
    renew_discriminator_optimizer: ClassVar[bool] = False
    takes_unlabelled: ClassVar[bool] = True
    gradient_shares_every: int = 250

    @classmethod
    def weights_by_default(cls) -> dict[str, float]:
        return {**cls.default_weights, **dict.fromkeys(cls.without, 0.0)}

    @classmethod
    def needs(cls) -> tuple[str, ...]:
        judged = ("discriminator",) if cls.weights_by_default()["adversarial"] > 0 else ()
        return (*super().needs(), *judged)

    # ---------------------------------------------------------------- building

    def objective_config(self) -> ObjectiveConfig:
        """Weights and schedule, before those of the plans are put in; called once the network exists."""
        return ObjectiveConfig.nested() if self.teacher == NESTED else ObjectiveConfig()

    def initialize(self) -> None:
        log_every = int(os.environ.get(GRADIENT_SHARES_VARIABLE, 0))
        measures = self.gradient_shares_every > 0 or log_every > 0
        if measures and self._do_i_compile() and hasattr(functorch_config, "donated_buffer"):
            # Gradient shares go through the graph more than once before the step's own backward.
            functorch_config.donated_buffer = False
        super().initialize()
        self.objective = MSTKDObjective(
            self.config,
            regions=self.label_manager.has_regions,
            segmentation_loss=self.loss,
            variant=self.variant,
            ignore_label=self.label_manager.ignore_label,
        )
        self.step_state.watch = GradientWatch(self.config.caps, self.gradient_shares_every, log_every)
        if self.config.adversarial:
            _, channels, *size = style_features(self.student_shapes).shape
            self.add_adversary(
                _DISCRIMINATOR,
                StyleDiscriminator(channels, size),
                discriminator_loss_on_styles,
                renew_optimizer=self.renew_discriminator_optimizer,
            )

    def build_beside(self) -> None:
        config = self.objective_config().with_weights(self.term_weights or {})
        config = config.with_weights(dict.fromkeys(self.without, 0.0))
        self.weights = config.weights()
        if self.teacher != NESTED and self.weights["more_vs_fewer"] > 0:
            raise MSTKDError(
                "term 'more_vs_fewer' compares two members of a pair that both learn, but the teacher is"
                f" '{self.teacher}'; set its weight to 0, or teacher 'nested'"
            )
        super().build_beside()
        off = {name: 0.0 for name, weight in self.weights.items() if weight == 0}
        self.config = config.with_weights(off)

    def misfits(self, student: NetworkTaps, teacher: NetworkTaps) -> dict[str, str]:
        found = {name: misfit(name, student, teacher) for name in TERM_NAMES}
        return {name: reason for name, reason in found.items() if reason}

    # ---------------------------------------------------------------- training

    @property
    def tap_request(self) -> Request:
        return self.objective.taps

    @property
    def bounds(self) -> TermBounds:
        """How far each term is scaled back."""
        assert self.step_state.watch is not None, "initialize has made it"
        return self.step_state.watch.bounds

    def taught_losses(self, batch: MaskedBatch, passes: Passes, samples: Tensor | None) -> StepLosses:
        epoch, num_epochs = self.phases.position(self.current_epoch)
        adversary = self.adversaries.get(_DISCRIMINATOR)
        result = self.objective(
            student=passes.student,
            teacher=passes.teacher,
            target=batch.target,
            epoch=epoch,
            num_epochs=num_epochs,
            style_discriminator=adversary.discriminator if adversary else None,
            train_teacher=self.teaching.learns,
            scales=self.bounds.scales,
            samples=samples,
            segmented=batch.segmented,
        )
        if adversary is not None and (samples is None or len(samples)):
            both = {"student": passes.student, "teacher": passes.teacher}
            which = slice(None) if samples is None else samples
            self.step_state.judged[_DISCRIMINATOR] = {
                role: style_features(taps).detach()[which] for role, taps in both.items()
            }
        self._watch_gradients(result.weighted_terms())
        return StepLosses(result.total, dict(result.terms))

    def _watch_gradients(self, weighted_terms: Mapping[str, Tensor]) -> None:
        """Now and then: each term's gradient norm as a share of the segmentation's, its cosine, its bound."""
        assert self.step_state.watch is not None, "initialize has made it"
        if self.step_state.watch.due and self.grad_scaler is not None:
            # Like the loss itself: half-precision gradients of small terms would underflow otherwise. Only
            # where they are measured: asking for the scale waits for the GPU.
            scale = self.grad_scaler.get_scale()
            weighted_terms = {name: value * scale for name, value in weighted_terms.items()}
        parameters = unwrap(self.network).parameters()
        shares, lines = self.step_state.watch.step(weighted_terms, SEGMENTATION, parameters)
        if not shares:
            return
        for name, share in shares.items():
            self.history.log(
                self.current_epoch,
                {f"gradient share/{name}": share.share, f"gradient cosine/{name}": share.cosine},
            )
        shown = {name: f"{s.share:.3g} (cosine {s.cosine:+.2f})" for name, s in shares.items()}
        self.print_to_log_file("gradient shares of the segmentation gradient", shown)
        for line in lines:
            self.print_to_log_file(line)

    # ---------------------------------------------------------------- checkpoints

    def extra_state(self, final: bool) -> dict[str, Any]:
        state = super().extra_state(final)
        if not final and self.step_state.watch is not None:
            state["gradient_watch"] = self.step_state.watch.state_dict()
        return state

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        super().load_extra_state(state)
        if "gradient_watch" in state and self.step_state.watch is not None:
            self.step_state.watch.load_state_dict(state["gradient_watch"])


class nnUNetTrainerMSTKD(nnUNetTrainerMSTKDBase):
    """MSTKDNet with a warm-started teacher and the default objective.

    The first ``full_phase`` of the epochs trains one network on all modalities. Then a frozen copy of it
    becomes the teacher, and the network goes on as the student, under masking. The learning rate decays once
    over both phases unless ``lr_restart`` is set (docs/methods.md). Stock nnU-Net plans are followed with
    MSTKDNet in place of their network; MSTKD plans name it themselves.

    Settings, beside those of :class:`nnUNetTrainerMSTKDBase`:
        preset: of MSTKDNet, when the plans name another network.
    """

    own_settings: ClassVar[Mapping[str, Setting]] = {"preset": one_of(PRESETS)}
    preset: ClassVar[str] = "nnunet"
    own_optimizer = OPTIMIZERS["adamw"]

    def set_defaults(self) -> None:
        self.initial_lr = 1e-3
        self.weight_decay = 1e-2

    def initialize(self) -> None:
        self._check_preset()
        super().initialize()

    @classmethod
    def network_of_plan(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool,
    ) -> nn.Module:
        """MSTKDNet as the plans describe it, or shaped after the network that stock plans describe."""
        return get_network_from_plans(
            NETWORK_CLASS,
            cls.network_kwargs(configuration_manager),
            list(CLASS_KWARGS),
            num_input_channels,
            num_output_channels,
            allow_init=True,
            deep_supervision=enable_deep_supervision,
        )

    @classmethod
    def network_kwargs(cls, configuration: ConfigurationManager) -> dict[str, Any]:
        """MSTKDNet's arguments: of MSTKD plans as they are, of others after the shape of their network."""
        kwargs, patch_size = configuration.network_arch_init_kwargs, configuration.patch_size
        if configuration.network_arch_class_name == NETWORK_CLASS:
            return kwargs
        settings = configuration.configuration.get(SETTINGS_KEY) or {}
        if (settings.get("preset") or cls.preset) == "official":
            # Its four stages, not the plan's: with the deeper ones of stock plans a patch is a token or two.
            return official_kwargs(patch_size)
        return mstkdnet_kwargs(kwargs, patch_size)

    def _check_preset(self) -> None:
        """Refuse plans of another preset than was asked for; the published network has one output."""
        planned = self.network_kwargs(self.configuration_manager)["preset"]
        wanted = self.settings.get("preset") or ("official" if self.preset == "official" else planned)
        if planned != wanted:
            raise MSTKDError(
                f"these plans hold MSTKDNet's preset '{planned}', but '{wanted}' is wanted; plan again with "
                f"nnUNetv2_mstkd plan --preset {wanted}, or train on nnU-Net's own plans"
            )
        if planned == "official":
            self.enable_deep_supervision = False


class nnUNetTrainerMSTKDUNet(nnUNetTrainerMSTKDBase):
    """The plan's own network as the student: inference costs what stock nnU-Net costs.

    Plain and residual-encoder U-Nets, any plans of nnU-Net. Logit and consistency terms as for MSTKDNet;
    content and style terms look at the bottleneck; terms on tokens are off. Optimizer, learning rate and
    weight decay are nnU-Net's.
    """

    @classmethod
    def network_of_plan(cls, *described: Any) -> nn.Module:
        """The network that the plans name."""
        return with_taps(super().network_of_plan(*described))

    def initialize(self) -> None:
        if self.configuration_manager.network_arch_class_name == NETWORK_CLASS:
            raise MSTKDError(
                f"{type(self).__name__} trains the plan's own network, but that of "
                f"{self.plans_manager.plans_name} is MSTKDNet; use nnU-Net's plans, "
                "or nnUNetv2_mstkd plan --network plans"
            )
        super().initialize()
