"""RMBTS: feature disentanglement and gated fusion (Chen et al., MICCAI 2019)."""

from nnunetv2_mstkd.methods.rmbts.network import RMBTS, released

__all__ = ["RMBTS", "released"]
