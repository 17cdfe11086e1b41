"""What every method has to beat: nnU-Net on all modalities, and nnU-Net with modality dropout."""

from __future__ import annotations

from nnunetv2_mstkd.trainers.base import nnUNetTrainerFromPlans
from nnunetv2_mstkd.trainers.missing_modality import nnUNetTrainerMissingModality


class nnUNetTrainerFullModality(nnUNetTrainerFromPlans):
    """nnUNetTrainer at the run length of the plans: the zero-filled baseline of a fair comparison.

    Stock ``nnUNetTrainer`` always runs 1000 epochs of 250 iterations with its own optimizer. This one reads
    run length, seed and optimizer from the plans, as the other trainers here do; loss, network and data are
    nnU-Net's, and it never sees a missing modality in training.
    """


class nnUNetTrainerModalityDropout(nnUNetTrainerMissingModality):
    """nnU-Net with modality dropout after a phase with all modalities: the bar of every comparison.

    Network, loss, optimizer and augmentation are nnU-Net's; a random subset of the modalities of each
    training patch is kept. The phase (``full_phase``) keeps what complete input gives, and costs incomplete
    input nothing (docs/benchmarks.md); ``full_phase`` 0 is plain modality dropout. Any distillation has to
    beat this at equal compute.
    """

    full_phase = 0.5
