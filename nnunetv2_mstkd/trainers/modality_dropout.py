"""The honest baseline: the plan's own network, nnU-Net's loss, and modality masking."""

from __future__ import annotations

from nnunetv2_mstkd.trainers.missing_modality import nnUNetTrainerMissingModality


class nnUNetTrainerModalityDropout(nnUNetTrainerMissingModality):
    """nnU-Net with modality dropout: from scratch, or after a full-modality phase (``full_phase``).

    Network, loss, optimizer and augmentation are nnU-Net's; a random subset of the modalities of each
    training patch is kept. Any distillation has to beat this at equal compute (docs/methods.md).
    """
