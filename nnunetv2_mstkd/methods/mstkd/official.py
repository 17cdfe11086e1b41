"""MST-KDNet as its authors released it, inside nnU-Net's data pipeline."""

from __future__ import annotations

from math import prod
from typing import Any

import torch

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.mstkd.variants import nnUNetTrainerMSTKDJoint
from nnunetv2_mstkd.methods.mstkd.weights import ObjectiveConfig
from nnunetv2_mstkd.trainers.base import unwrap
from nnunetv2_mstkd.trainers.phases import PhasedPolyLRScheduler


class nnUNetTrainerMSTKDOfficial(nnUNetTrainerMSTKDJoint):
    """Published network, objective, joint teacher and optimiser (docs/fidelity.md, quirks included).

    One Adam (1e-4, weight decay 1e-5) for teacher and student, polynomial decay stepped before the epoch,
    no gradient clipping, a discriminator whose Adam is renewed for every step, no deep supervision.
    nnU-Net's preprocessing, augmentation, patch size and epoch length stay (see docs/fidelity.md). Meant for
    region labels: with plain labels the released objective leaves the background head almost untrained.
    """

    default_weights = ObjectiveConfig.official().weights()
    preset = "official"
    variant = "official"
    teacher_gets_gradients = True
    renew_discriminator_optimizer = True
    own_optimizer = (torch.optim.Adam, {})
    gradient_clip = None

    def initialize(self) -> None:
        if self.is_ddp:
            raise MSTKDError(
                "the published objective couples the samples of a batch (Dice, KL), so -num_gpus would "
                "change what it computes; train it on one GPU"
            )
        super().initialize()

    def set_defaults(self) -> None:
        self.initial_lr = 1e-4
        self.weight_decay = 1e-5
        self.num_epochs = 100
        self.enable_deep_supervision = False

    def objective_config(self) -> ObjectiveConfig:
        network: Any = unwrap(self.network)
        return ObjectiveConfig.official(prod(network.token_grid))

    def on_train_start(self) -> None:
        super().on_train_start()
        if not self.label_manager.has_regions:
            self.print_to_log_file(
                "WARNING: plain labels. The released code trains the student's background head with no "
                "Dice, and nnU-Net's argmax uses that head; train with regions, as convert writes them"
            )

    def build_lr_scheduler(self) -> PhasedPolyLRScheduler:
        return PhasedPolyLRScheduler(self.optimizer, self.initial_lr, self.phases, lead=1)
