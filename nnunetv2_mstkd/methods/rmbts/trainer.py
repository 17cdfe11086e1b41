"""RMBTS's training (Chen et al., MICCAI 2019; released code fa35dda)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from nnunetv2_mstkd.architectures.presence import shown
from nnunetv2_mstkd.architectures.taps import NetworkTaps
from nnunetv2_mstkd.methods.rmbts.losses import modulation_loss, reconstruction_loss
from nnunetv2_mstkd.methods.rmbts.network import RMBTS
from nnunetv2_mstkd.settings import Setting, whole_number
from nnunetv2_mstkd.trainers.base import unwrap
from nnunetv2_mstkd.trainers.missing_modality import nnUNetTrainerMissingModality
from nnunetv2_mstkd.trainers.step import SEGMENTATION, MaskedBatch, StepLosses


class nnUNetTrainerRMBTS(nnUNetTrainerMissingModality):
    """Gated fusion of one content encoder per modality, which with a style code gives every image back.

    The content sees the modalities that the mask shows; images are reconstructed of all that the case has.
    Optimizer, learning rate, decay and the weights of the losses are the released ones.

    Settings, beside those of :class:`nnUNetTrainerMissingModality`:
        base_features: channels of the first level; 16 as released.
        style_features: length of a style code; 8 as released.
    """

    reference: ClassVar[str] = (
        "Chen et al. Robust Multimodal Brain Tumor Segmentation via Feature Disentanglement and Gated "
        "Fusion. MICCAI 2019"
    )
    network_class = RMBTS
    network_settings: ClassVar[Mapping[str, Setting]] = {
        "base_features": whole_number(1),
        "style_features": whole_number(1),
    }
    default_weights: ClassVar[Mapping[str, float]] = {
        SEGMENTATION: 1.0,
        "reconstruction": 0.1,
        "modulation": 0.1,
    }
    gradient_clip = None

    def set_defaults(self) -> None:
        self.initial_lr = 1e-4
        self.weight_decay = 1e-4

    def build_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        network: Any = unwrap(self.network)
        decayed = {id(p) for p in network.decayed_parameters()}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if id(p) in decayed], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
        ]
        return torch.optim.Adam(groups, self.initial_lr)

    def compute_losses(self, batch: MaskedBatch) -> StepLosses:
        request = [tap for name, taps in _TAPS.items() if self.counts(name) for tap in taps]
        present, available = batch.mask.bool(), shown(batch.data)
        taps: NetworkTaps = self.network(batch.data, return_taps=tuple(request), present=present)
        losses = {SEGMENTATION: self.loss(taps.logits, batch.target)}
        found: Mapping[str, Any] = taps.inner
        if self.counts("reconstruction"):
            losses["reconstruction"] = reconstruction_loss(
                reconstruction=found["reconstructions"], image=batch.data, available=available
            )
        if self.counts("modulation"):
            losses["modulation"] = modulation_loss(
                gain=found["gains"], shift=found["shifts"], available=available
            )
        return self.weighted(losses)


_TAPS = {"reconstruction": ("reconstructions",), "modulation": ("gains", "shifts")}
