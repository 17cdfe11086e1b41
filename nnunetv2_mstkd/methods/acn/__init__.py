"""ACN: network, discriminators, losses."""

from nnunetv2_mstkd.methods.acn.network import ACN, released

__all__ = ["ACN", "released"]
