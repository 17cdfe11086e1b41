"""MST-KD training of MSTKDNet."""

from __future__ import annotations

from typing import Any, ClassVar

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunetv2_mstkd.architectures.taps import with_taps
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.mstkd.network import (
    MSTKDNet,
)
from nnunetv2_mstkd.methods.mstkd.sizes import (
    CLASS_KWARGS,
    mstkdnet_kwargs,
    official_kwargs,
)
from nnunetv2_mstkd.settings import SETTINGS_KEY
from nnunetv2_mstkd.trainers.teaching.trainer import nnUNetTrainerDistilling

NETWORK_CLASS = f"{MSTKDNet.__module__}.{MSTKDNet.__qualname__}"


class nnUNetTrainerMSTKD(nnUNetTrainerDistilling):
    """MSTKDNet with a warm-started teacher and the default objective.

    The first ``full_phase`` of the epochs trains one network on all modalities. Then a frozen copy of it
    becomes the teacher, and the network goes on as the student, under masking. The learning rate decays once
    over both phases unless ``lr_restart`` is set (docs/methods.md). Stock nnU-Net plans are followed with
    MSTKDNet in place of their network; MSTKD plans name it themselves.

    Attributes:
        preset: of MSTKDNet when the plans name another network.
    """

    preset: ClassVar[str] = "nnunet"
    optimizer_name = "adamw"

    def set_defaults(self) -> None:
        self.initial_lr = 1e-3
        self.weight_decay = 1e-2

    def initialize(self) -> None:
        self._check_preset()
        super().initialize()

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
        wanted = self.settings.preset or ("official" if self.preset == "official" else planned)
        if planned != wanted:
            raise MSTKDError(
                f"these plans hold MSTKDNet's preset '{planned}', but '{wanted}' is wanted; plan again with "
                f"nnUNetv2_mstkd plan --preset {wanted}, or train on nnU-Net's own plans"
            )
        if planned == "official":
            self.enable_deep_supervision = False


class nnUNetTrainerMSTKDUNet(nnUNetTrainerDistilling):
    """The plan's own network as the student: inference costs what stock nnU-Net costs.

    Plain and residual-encoder U-Nets, any plans of nnU-Net. Logit and consistency terms as for MSTKDNet;
    content and style terms look at the bottleneck; terms on tokens are off. Optimizer, learning rate and
    weight decay are nnU-Net's.
    """

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The network that the plans name."""
        network = nnUNetTrainer.build_network_architecture(
            plans_manager,
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
        )
        return with_taps(network)

    def initialize(self) -> None:
        if self.configuration_manager.network_arch_class_name == NETWORK_CLASS:
            raise MSTKDError(
                f"{type(self).__name__} trains the plan's own network, but that of "
                f"{self.plans_manager.plans_name} is MSTKDNet; use nnU-Net's plans, "
                "or nnUNetv2_mstkd plan --network plans"
            )
        super().initialize()
