"""Taps of networks that know nothing of distillation: nnU-Net's own and anyone's."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet, ResidualUNet
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.mstkdnet import MSTKDNet
from nnunetv2_mstkd.architectures.taps import NetworkTaps

_UNETS = (PlainConvUNet, ResidualEncoderUNet, ResidualUNet)


def with_taps(network: nn.Module) -> nn.Module:
    """Let ``network(x, return_taps=True)`` return :class:`NetworkTaps`; its weights keep their names.

    MSTKDNet has that itself. The U-Nets of dynamic_network_architectures show their deepest features as
    ``encoded``; any other network shows its logits alone. The network is changed in place (its class
    becomes a subclass), so that DDP, torch.compile and checkpoints see the network they know.

    Args:
        network: as nnU-Net builds it.

    Returns:
        The same object.
    """
    if isinstance(network, (MSTKDNet, _Tapped)):
        return network
    # Whoever changed the forward of a U-Net may do more than the two steps that _TappedUNet repeats.
    is_unet = any(isinstance(network, unet) and type(network).forward is unet.forward for unet in _UNETS)
    tapped: type[_Tapped] = _TappedUNet if is_unet else _TappedLogits
    network.__class__ = _subclass(tapped, type(network))  # type: ignore[arg-type]  # hashable they are
    return network


if TYPE_CHECKING:
    _Mixed = nn.Module
else:
    _Mixed = object


class _Tapped(_Mixed):
    """Marks a network that this module has changed."""


class _TappedUNet(_Tapped):
    encoder: nn.Module
    decoder: nn.Module

    def forward(
        self, x: Tensor, return_taps: bool = False, attention: bool = True
    ) -> Tensor | list[Tensor] | NetworkTaps:
        skips = self.encoder(x)
        logits = self.decoder(skips)
        return NetworkTaps(logits, encoded=skips[-1]) if return_taps else logits


class _TappedLogits(_Tapped):
    def forward(
        self, x: Tensor, return_taps: bool = False, attention: bool = True
    ) -> Tensor | list[Tensor] | NetworkTaps:
        logits = super().forward(x)
        return NetworkTaps(logits) if return_taps else logits


@cache
def _subclass(tapped: type[_Tapped], network_class: type[nn.Module]) -> type[nn.Module]:
    return type(f"{network_class.__name__}WithTaps", (tapped, network_class), {})
