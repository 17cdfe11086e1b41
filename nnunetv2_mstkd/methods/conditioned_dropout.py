"""Modality dropout whose network is told what is absent: the trainer to start with."""

from __future__ import annotations

from typing import ClassVar

from nnunetv2_mstkd.trainers.missing_modality import nnUNetTrainerMissingModality
from nnunetv2_mstkd.trainers.own_network import ABSENCE


class nnUNetTrainerConditionedDropout(nnUNetTrainerMissingModality):
    """Modality dropout with a short phase of all modalities, and norms that know which ones are absent.

    A quarter of the epochs shows all modalities (``full_phase``), and the scale and shift of every norm
    depend on the absent ones (``conditioning``; see
    :func:`~nnunetv2_mstkd.architectures.conditioning.condition_on_absence`). Everything else is nnU-Net's, as
    in ``nnUNetTrainerModalityDropout``. What the two are worth, alone and together: docs/benchmarks.md.
    """

    reference: ClassVar[str] = (
        "Perez et al. FiLM: Visual Reasoning with a General Conditioning Layer. AAAI 2018. arXiv:1709.07871"
    )
    full_phase = 0.25
    conditioning = ABSENCE
