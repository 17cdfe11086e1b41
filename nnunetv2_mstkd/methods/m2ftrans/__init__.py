"""M2FTrans: modality-masked fusion transformer (Shi et al., JBHI 2024)."""

from nnunetv2_mstkd.methods.m2ftrans.network import M2FTrans, released

__all__ = ["M2FTrans", "released"]
