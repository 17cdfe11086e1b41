"""RA-HVED: heteromodal variational encoder-decoder (Jeong et al., ACCV 2022)."""

from nnunetv2_mstkd.methods.rahved.network import RAHVED, released

__all__ = ["RAHVED", "released"]
