"""MST-KD training of nnU-Net's own network."""

from __future__ import annotations

from typing import Any

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
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
    def build_network_architecture(*args: Any, **kwargs: Any) -> nn.Module:
        """The network that the plans name."""
        return with_taps(nnUNetTrainer.build_network_architecture(*args, **kwargs))

    def initialize(self) -> None:
        if self.configuration_manager.network_arch_class_name == NETWORK_CLASS:
            raise MSTKDError(
                f"{type(self).__name__} trains the plan's own network, but that of "
                f"{self.plans_manager.plans_name} is MSTKDNet; use nnU-Net's plans, "
                "or nnUNetv2_mstkd plan --network plans"
            )
        super().initialize()
