"""mmFormer's training (Zhang et al., MICCAI 2022; released code b18663a)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from nnunetv2_mstkd.methods.auxiliary import nnUNetTrainerAuxiliary
from nnunetv2_mstkd.methods.mmformer.network import TOKEN_ORDERS, MMFormer
from nnunetv2_mstkd.methods.mmformer.transformer import HEADS
from nnunetv2_mstkd.settings import Setting, is_whole, one_of, whole_number
from nnunetv2_mstkd.trainers.step import SEGMENTATION


class nnUNetTrainerMMFormer(nnUNetTrainerAuxiliary):
    """An encoder per modality, transformers within every modality and across all.

    Every modality's own segmentation and those of the decoder's coarser levels are supervised beside the
    fused segmentation: with four modalities nine losses, each of weight 1. Optimizer, learning rate and decay
    are the released ones.

    Settings, beside those of :class:`nnUNetTrainerMissingModality`:
        base_features: channels of the first level; 8 as released.
        token_features: width of a token, a multiple of 8; 512 as released.
        token_order: ``released`` or ``mended``, see :class:`TokenFusion`.
    """

    reference: ClassVar[str] = (
        "Zhang et al. mmFormer: Multimodal Medical Transformer for Incomplete Multimodal Learning of "
        "Brain Tumor Segmentation. MICCAI 2022. arXiv:2206.02425"
    )
    network_class = MMFormer
    network_settings: ClassVar[Mapping[str, Setting]] = {
        "base_features": whole_number(1),
        "token_features": Setting(
            f"a whole number, a multiple of {HEADS}", lambda v: is_whole(v) and v > 0 and v % HEADS == 0
        ),
        "token_order": one_of(TOKEN_ORDERS),
    }
    default_weights: ClassVar[Mapping[str, float]] = {SEGMENTATION: 1.0, "separate": 1.0, "scales": 1.0}
    own_optimizer = (torch.optim.Adam, {"amsgrad": True})
    gradient_clip = None

    def set_defaults(self) -> None:
        self.initial_lr = 2e-4
        self.weight_decay = 1e-4
