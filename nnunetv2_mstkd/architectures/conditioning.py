"""Scale and shift behind every norm, by which modalities are absent.

In front of a convolution and an instance norm, whatever is constant over the image has no effect: the norm
takes it out again. So a network can be told what is absent only behind a norm. There, with the flags n of
what is absent (1) or present (0) in a sample, a norm's weight γ and bias β become ::

    γ · (1 + A n)   and   β + B n

A and B are zero to begin with, so the network starts as it was; and n is zero where nothing is absent, so
that A and B never change what it makes of complete input. (Conditional normalisation, FiLM: Perez et al.,
AAAI 2018; for absent modalities ModDrop++, MICCAI 2022, and TinyMimosa.)
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from nnunetv2_mstkd.architectures.presence import presence
from nnunetv2_mstkd.errors import MSTKDError

# Name of the one weight that conditioning adds to a network.
CONDITIONING_WEIGHT = "conditioning.weight"
# Of a residual block: what it adds is conditioned, what it passes on is not.
_SHORTCUT = "skip"


class AbsenceConditioning(nn.Module):
    """Maps flags to the scales and shifts of all conditioned norms of a network.

    Args:
        channels: of each norm, in the network's order.
        modalities: M; the first M channels of the input.

    Attributes:
        weight: A and B of all norms, (2, ΣC, M), zero to begin with.
    """

    def __init__(self, channels: list[int], modalities: int) -> None:
        super().__init__()
        self.channels, self.modalities = channels, modalities
        self.weight = nn.Parameter(torch.zeros(2, sum(channels), modalities))

    def forward(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Scale and shift, (B, C) each, per norm, for an input (B, M or more, ...); float32."""
        absent = (~presence(x[:, : self.modalities])).to(self.weight.dtype)
        # Few numbers, on which others are multiplied: not in 16 bits.
        with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
            scales, shifts = torch.einsum("kcm,bm->kbc", self.weight, absent)
        pairs = zip(scales.split(self.channels, 1), shifts.split(self.channels, 1), strict=True)
        return list(pairs)


def condition_on_absence(network: nn.Module, modalities: int) -> nn.Module:
    """Let a network know what is absent; its weights keep their names, ``conditioning.weight`` is new.

    The network is changed in place: its norms' classes become subclasses, and it reads the flags from its
    input's zeros before every pass, see :func:`presence`.

    Args:
        network: with instance, group or batch norms.
        modalities: channels of the input that are modalities; those of a cascade's previous stage follow.

    Returns:
        The same object.

    Raises:
        MSTKDError: the network has no such norm.
    """
    norms = _norms(network)
    if not norms:
        raise MSTKDError(
            f"{type(network).__name__} has no instance, group or batch norm that could be conditioned; leave"
            " the setting 'conditioning' out"
        )
    network.conditioning = AbsenceConditioning([_channels(norm) for norm in norms], modalities)
    for place, norm in enumerate(norms):
        norm.__class__ = _conditioned(type(norm))  # type: ignore[arg-type]  # hashable they are
        norm.place = place
    network.register_forward_pre_hook(_tell_norms)
    network.register_forward_hook(_let_norms_forget)
    return network


def _norms(network: nn.Module) -> list[Any]:
    kinds = (_InstanceNorm, nn.GroupNorm, _BatchNorm)
    return [
        module
        for name, module in network.named_modules()
        if isinstance(module, kinds) and _SHORTCUT not in name.split(".")
    ]


def _channels(norm: Any) -> int:
    return norm.num_channels if isinstance(norm, nn.GroupNorm) else norm.num_features


def _tell_norms(network: Any, inputs: tuple[Tensor, ...]) -> None:
    pairs = network.conditioning(inputs[0])
    # By their places: an export of the network counts a norm that has two names twice.
    for norm in _conditioned_norms(network):
        norm.modulation = pairs[norm.place]


def _let_norms_forget(network: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
    # They belong to a graph: with them no copy could be made of the network after a step.
    for norm in _conditioned_norms(network):
        norm.modulation = None


def _conditioned_norms(network: nn.Module) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, ConditionedNorm)]


if TYPE_CHECKING:
    _Norm = nn.Module
else:
    _Norm = object


class ConditionedNorm(_Norm):
    """A norm with a weight and a bias per sample, while the network tells it its ``modulation``.

    Attributes:
        unconditioned: of the class: the norm's class as it was.
        place: of its weight and bias among those of all norms.
    """

    unconditioned: ClassVar[type[nn.Module]]
    modulation: tuple[Tensor, Tensor] | None = None
    place: int
    weight: Tensor | None
    bias: Tensor | None

    def told(self) -> tuple[Tensor, Tensor]:
        """A n and B n, (B, C) each, of the running pass."""
        assert self.modulation is not None, "the network tells it before a pass"
        return self.modulation

    def weight_and_bias(self) -> tuple[Tensor, Tensor]:
        """γ · (1 + A n) and β + B n, (B, C) each."""
        scale, shift = self.told()
        scale = 1 + scale
        return (scale if self.weight is None else scale * self.weight), (
            shift if self.bias is None else shift + self.bias
        )


class _ConditionedInstanceNorm(ConditionedNorm):
    track_running_stats: bool
    eps: float

    def forward(self, x: Tensor) -> Tensor:
        # As PyTorch's own instance norm does it: a batch norm over samples times channels.
        weight, bias = (values.flatten() for values in self.weight_and_bias())
        each = x.reshape(1, -1, *x.shape[2:])
        return F.batch_norm(each, None, None, weight, bias, training=True, eps=self.eps).view_as(x)


class _ConditionedOtherNorm(ConditionedNorm):
    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.told()
        if self.bias is not None:
            shift = shift - scale * self.bias
        normed = super().forward(x)
        voxel = (*scale.shape, *[1] * (x.ndim - 2))
        return torch.addcmul(
            shift.to(normed.dtype).view(voxel), normed, (1 + scale).to(normed.dtype).view(voxel)
        )


@cache
def _conditioned(norm_class: type[nn.Module]) -> type[nn.Module]:
    of_instances = issubclass(norm_class, _InstanceNorm)
    base = _ConditionedInstanceNorm if of_instances else _ConditionedOtherNorm
    return type(f"Conditioned{norm_class.__name__}", (base, norm_class), {"unconditioned": norm_class})
