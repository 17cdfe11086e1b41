"""SMU-Net: network, losses."""

from nnunetv2_mstkd.methods.smunet.network import SMUNet, released

__all__ = ["SMUNet", "released"]
