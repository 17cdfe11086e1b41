"""mmFormer: convolutional encoders, transformers within and across modalities (MICCAI 2022)."""

from nnunetv2_mstkd.methods.mmformer.network import MMFormer, released

__all__ = ["MMFormer", "released"]
