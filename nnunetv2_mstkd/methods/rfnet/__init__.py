"""RFNet: region-aware fusion (Ding et al., ICCV 2021)."""

from nnunetv2_mstkd.methods.rfnet.network import RFNet, released

__all__ = ["RFNet", "released"]
