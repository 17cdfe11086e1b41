"""IM-Fuse: fusion of modalities by Mamba (MICCAI 2025)."""

from nnunetv2_mstkd.methods.imfuse.network import IMFuse, released

__all__ = ["IMFuse", "released"]
