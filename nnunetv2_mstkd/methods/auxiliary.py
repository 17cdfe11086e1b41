"""Base of methods whose network has more segmentations than one: nnU-Net's loss on each, weights by name."""

from __future__ import annotations

import torch

from nnunetv2_mstkd.architectures.taps import NetworkTaps
from nnunetv2_mstkd.trainers.missing_modality import nnUNetTrainerMissingModality
from nnunetv2_mstkd.trainers.step import SEGMENTATION, MaskedBatch, StepLosses


class nnUNetTrainerAuxiliary(nnUNetTrainerMissingModality):
    """Supervises named lists of further segmentations beside the network's own.

    Every name of ``default_weights`` beside ``segmentation`` is one of the network's taps: a list of logits
    (B, K, *patch). Its loss is the sum of nnU-Net's segmentation loss over the list, as the methods' released
    codes add them up. A loss of weight 0 is not computed.

    The network is called with the whole patch and ``present`` (B, M), the modalities that its fusion may see:
    in the released codes every modality's own segmentation learns in every step, whatever the mask hides.
    """

    def compute_losses(self, batch: MaskedBatch) -> StepLosses:
        names = tuple(name for name in self.weights if name != SEGMENTATION and self.counts(name))
        taps: NetworkTaps = self.network(batch.data, return_taps=names, present=batch.mask.bool())
        losses = {SEGMENTATION: self.loss(taps.logits, batch.target)}
        for name in names:
            each = [self.loss(logits, batch.target) for logits in taps.inner[name]]
            losses[name] = torch.stack(each).sum()
        return self.weighted(losses)
