"""Networks: torch in, torch out."""

from nnunetv2_mstkd.architectures.from_plans import mstkdnet_kwargs
from nnunetv2_mstkd.architectures.mstkdnet import MSTKDNet
from nnunetv2_mstkd.architectures.style_discriminator import StyleDiscriminator
from nnunetv2_mstkd.architectures.taps import NetworkTaps

__all__ = ["MSTKDNet", "NetworkTaps", "StyleDiscriminator", "mstkdnet_kwargs"]
