"""RFNet's training (Ding et al., ICCV 2021; released code 1e475fa)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from nnunetv2_mstkd.methods.auxiliary import nnUNetTrainerAuxiliary
from nnunetv2_mstkd.methods.rfnet.network import RFNet
from nnunetv2_mstkd.settings import Setting, is_number
from nnunetv2_mstkd.trainers.step import SEGMENTATION


class nnUNetTrainerRFNet(nnUNetTrainerAuxiliary):
    """Region-aware fusion of one encoder per modality.

    Every modality's own segmentation and the region maps that steer the fusion are supervised beside the
    fused segmentation, which counts from the twentieth of three hundred epochs on. Optimizer, learning rate,
    decay and weights are those of the released job script.

    Settings, beside those of :class:`nnUNetTrainerMissingModality`:
        base_features: channels of the first level; 16 as released.
        fusion_start: share of the epochs after which the fused segmentation is supervised; 20 / 300 as
            released.
    """

    reference: ClassVar[str] = (
        "Ding et al. RFNet: Region-Aware Fusion Network for Incomplete Multi-Modal Brain Tumor "
        "Segmentation. ICCV 2021"
    )
    network_class = RFNet
    own_settings: ClassVar[Mapping[str, Setting]] = {
        "fusion_start": Setting("a number from 0 to below 1", lambda v: is_number(v) and 0 <= v < 1)
    }
    default_weights: ClassVar[Mapping[str, float]] = {SEGMENTATION: 1.0, "separate": 1.0, "region_maps": 1.0}
    fusion_start: float = 20 / 300
    own_optimizer = (torch.optim.Adam, {"amsgrad": True})
    gradient_clip = None

    def set_defaults(self) -> None:
        self.initial_lr = 2e-4
        self.weight_decay = 1e-4

    def weights_now(self) -> dict[str, float]:
        if self.current_epoch >= round(self.fusion_start * self.num_epochs):
            return self.weights
        # Times 0, not left out: Adam then decays the weights that no gradient reaches yet, as released.
        return {**self.weights, SEGMENTATION: 0.0}
