"""DeMoSeg's training (Yang et al., BIBM 2024; released code 73cd4bb)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from nnunetv2_mstkd.architectures.presence import shown
from nnunetv2_mstkd.architectures.taps import NetworkTaps
from nnunetv2_mstkd.losses.expression import released_expression_loss
from nnunetv2_mstkd.methods.demoseg.blocks import CHANNEL_ORDERS
from nnunetv2_mstkd.methods.demoseg.network import EXPRESSED, DeMoSeg
from nnunetv2_mstkd.settings import Setting, one_of, whole_number
from nnunetv2_mstkd.trainers.missing_modality import nnUNetTrainerMissingModality
from nnunetv2_mstkd.trainers.step import EXPRESSION, SEGMENTATION, MaskedBatch, StepLosses


class nnUNetTrainerDeMoSeg(nnUNetTrainerMissingModality):
    """nnU-Net's U-Net in which features of absent modalities are borrowed from present ones.

    What a present modality lends to another present one learns to be what that one shows itself. Optimizer,
    learning rate, decay, clipping and deep supervision are nnU-Net's, as released.

    The release sums the expression loss over two samples and weighs it by 0.5; here it is their mean, and
    weighs 1: equal at that batch, and independent of it and of the number of processes.

    Settings, beside those of :class:`nnUNetTrainerMissingModality`:
        base_features: channels of the first level; 32 as released.
        channel_order: ``released`` or ``fixed``, see :class:`ShuffledBlock`.
        lenders: who lends to whom, see :func:`lenders_by_name`; as released by default.
    """

    reference: ClassVar[str] = (
        "Yang et al. Decoupling Feature Representations of Ego and Other Modalities for Incomplete "
        "Multi-modal Brain Tumor Segmentation. BIBM 2024. arXiv:2408.08708"
    )
    network_class = DeMoSeg
    network_settings: ClassVar[Mapping[str, Setting]] = {
        "base_features": whole_number(1),
        "channel_order": one_of(CHANNEL_ORDERS),
    }
    default_weights: ClassVar[Mapping[str, float]] = {SEGMENTATION: 1.0, EXPRESSION: 1.0}

    def compute_losses(self, batch: MaskedBatch) -> StepLosses:
        x, with_expression = batch.masked, self.counts(EXPRESSION)
        taps: NetworkTaps = self.network(x, return_taps=(EXPRESSED,) if with_expression else ())
        losses = {SEGMENTATION: self.loss(taps.logits, batch.target)}
        if with_expression:
            losses[EXPRESSION] = released_expression_loss(taps.several(EXPRESSED), shown(x))
        return self.weighted(losses)
