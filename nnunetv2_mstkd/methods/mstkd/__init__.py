"""MST-KDNet: network, objective, trainers."""

from nnunetv2_mstkd.methods.mstkd.network import MSTKDNet, released

__all__ = ["MSTKDNet", "released"]
