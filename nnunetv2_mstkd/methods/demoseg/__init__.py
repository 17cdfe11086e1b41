"""DeMoSeg: absent modalities' features are borrowed from present ones (BIBM 2024)."""

from nnunetv2_mstkd.methods.demoseg.network import DeMoSeg, released

__all__ = ["DeMoSeg", "released"]
