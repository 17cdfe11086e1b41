"""M2FTrans' training (Shi et al., JBHI 28(1), 2024; released code 03a0b28, v2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from nnunetv2_mstkd.methods.auxiliary import nnUNetTrainerAuxiliary
from nnunetv2_mstkd.methods.m2ftrans.network import M2FTrans
from nnunetv2_mstkd.settings import Setting, is_number, whole_number
from nnunetv2_mstkd.trainers.phases import PhasedPolyLRScheduler
from nnunetv2_mstkd.trainers.step import SEGMENTATION


class nnUNetTrainerM2FTrans(nnUNetTrainerAuxiliary):
    """Masked fusion transformer between one encoder per modality and one decoder.

    Every modality's own segmentation and those of all levels of the decoder are supervised beside the fused
    segmentation. Optimizer, learning rate, decay, warm-up and weights are those of the released script.

    Settings, beside those of :class:`nnUNetTrainerMissingModality`:
        base_features: channels of the first level; 8 as released.
        mlp_features: hidden width of the transformer's token-wise networks; 4096 as released.
        warm_up: share of the epochs in which the learning rate rises to ``initial_lr``; 50 / 1000 as
            released.
    """

    reference: ClassVar[str] = (
        "Shi et al. M2FTrans: Modality-Masked Fusion Transformer for Incomplete Multi-Modality Brain "
        "Tumor Segmentation. IEEE Journal of Biomedical and Health Informatics 28(1), 2024"
    )
    network_class = M2FTrans
    network_settings: ClassVar[Mapping[str, Setting]] = {
        **nnUNetTrainerAuxiliary.network_settings,
        "mlp_features": whole_number(1),
    }
    own_settings: ClassVar[Mapping[str, Setting]] = {
        "warm_up": Setting("a number from 0 to below 1", lambda v: is_number(v) and 0 <= v < 1)
    }
    default_weights: ClassVar[Mapping[str, float]] = {SEGMENTATION: 1.0, "separate": 1.0, "scales": 1.0}
    warm_up: float = 50 / 1000
    own_optimizer = (torch.optim.AdamW, {"amsgrad": True})
    gradient_clip = None

    def set_defaults(self) -> None:
        self.initial_lr = 2e-4
        self.weight_decay = 1e-4

    def build_lr_scheduler(self) -> PhasedPolyLRScheduler:
        return PhasedPolyLRScheduler(
            self.optimizer,
            self.initial_lr,
            self.phases,
            restart=self.lr_restart,
            warm_up=round(self.warm_up * self.num_epochs),
        )
