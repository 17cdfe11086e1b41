"""IM-Fuse's training (MICCAI 2025; released code fbbd48e)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from nnunetv2_mstkd.methods.auxiliary import nnUNetTrainerAuxiliary
from nnunetv2_mstkd.methods.imfuse.network import IMFuse
from nnunetv2_mstkd.trainers.step import SEGMENTATION


class nnUNetTrainerIMFuse(nnUNetTrainerAuxiliary):
    """Fusion of one encoder per modality by Mamba blocks.

    Every modality's own segmentation and those of the decoder's coarser levels are supervised beside the
    fused one. Optimizer, learning rate, decay and weights are those of the documented training command.

    Settings, beside those of :class:`nnUNetTrainerMissingModality`:
        base_features: channels of the first level; 8 as released. Tokens grow and shrink with it.
    """

    reference: ClassVar[str] = "IM-Fuse. MICCAI 2025. github.com/AImageLab-zip/IM-Fuse"
    network_class = IMFuse
    default_weights: ClassVar[Mapping[str, float]] = {SEGMENTATION: 1.0, "separate": 1.0, "scales": 1.0}
    gradient_clip = None

    def set_defaults(self) -> None:
        self.initial_lr = 2e-4
        self.weight_decay = 3e-5

    def build_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        # Decay in the gradient and on all parameters, those of the scan too, as released.
        return torch.optim.RAdam(parameters, self.initial_lr, weight_decay=self.weight_decay)
