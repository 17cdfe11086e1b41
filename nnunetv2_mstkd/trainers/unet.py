"""MST-KD training of nnU-Net's own network."""

from __future__ import annotations

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunetv2_mstkd.architectures.tapping import with_taps
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.trainers.distilling import nnUNetTrainerDistilling
from nnunetv2_mstkd.trainers.mstkd import NETWORK_CLASS


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
