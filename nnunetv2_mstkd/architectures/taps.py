"""What a network shows of itself beside its segmentation: named inner features and further outputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from inspect import signature
from typing import TYPE_CHECKING

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet, ResidualUNet
from torch import Tensor, nn

TensorOrList = Tensor | list[Tensor]
# False: logits alone; True: with everything the network shows; names: with these at least.
Request = bool | Collection[str]

UNETS = (PlainConvUNet, ResidualEncoderUNet, ResidualUNet)
# What a U-Net shows: its deepest features (B, C, *bottleneck).
ENCODED = "encoded"


@dataclass
class NetworkTaps:
    """Outputs and inner features of one forward pass.

    Attributes:
        logits: (B, K, *patch), no nonlinearity applied; with deep supervision a list, full resolution first.
        inner: whatever else the network shows, by name: one tensor or a list of them, batch first. The
            network's docstring has the names; what it does not have, or was not asked for, is not there.
    """

    logits: TensorOrList
    inner: dict[str, TensorOrList] = field(default_factory=dict)

    @property
    def finest(self) -> Tensor:
        """Logits at full resolution (B, K, *patch)."""
        return self.logits if isinstance(self.logits, Tensor) else self.logits[0]

    def one(self, name: str) -> Tensor:
        """The tap of this name, which is one tensor."""
        tap = self.inner[name]
        assert isinstance(tap, Tensor), f"tap '{name}' is a list"
        return tap

    def several(self, name: str) -> list[Tensor]:
        """The tap of this name, which is a list."""
        tap = self.inner[name]
        assert not isinstance(tap, Tensor), f"tap '{name}' is one tensor"
        return tap

    def tensors(self) -> list[Tensor]:
        """Logits and taps as one flat list, the logits first."""
        values = [self.logits, *self.inner.values()]
        return [tensor for value in values for tensor in ([value] if isinstance(value, Tensor) else value)]

    def select(self, samples: Tensor) -> NetworkTaps:
        """The taps of some samples of the batch.

        Args:
            samples: their indices (n,).
        """
        return self._map(lambda tensor: tensor[samples])

    def detached(self) -> NetworkTaps:
        """The same values without gradients."""
        return self._map(Tensor.detach)

    def _map(self, function: Callable[[Tensor], Tensor]) -> NetworkTaps:
        def apply(value: TensorOrList) -> TensorOrList:
            return function(value) if isinstance(value, Tensor) else [function(level) for level in value]

        return NetworkTaps(apply(self.logits), {name: apply(value) for name, value in self.inner.items()})


def size_misfit(student: Mapping[str, TensorOrList], teacher: Mapping[str, TensorOrList]) -> str | None:
    """Why taps of the same names cannot be compared, in words; ``None`` if they can.

    Sizes count per sample, so that taps of different batches can be asked about.
    """
    for name, tensors in student.items():
        sizes = [_sizes(tensors), _sizes(teacher[name])]
        if sizes[0] != sizes[1]:
            return f"{name} is {_text(sizes[0])} in the student, {_text(sizes[1])} in the teacher"
    return None


def _sizes(tensors: TensorOrList) -> list[tuple[int, ...]]:
    levels = [tensors] if isinstance(tensors, Tensor) else tensors
    return [tuple(level.shape[1:]) for level in levels]


def _text(sizes: list[tuple[int, ...]]) -> str:
    return ", ".join(" x ".join(map(str, size)) for size in sizes)


def wants(request: Request, name: str) -> bool:
    """Whether a pass was asked to show the tap of this name."""
    return request if isinstance(request, bool) else name in request


def with_taps(network: nn.Module) -> nn.Module:
    """Let ``network(x, return_taps=True)`` return :class:`NetworkTaps`; its weights keep their names.

    This plugin's networks do so themselves. The U-Nets of dynamic_network_architectures show their deepest
    features as ``encoded``; any other network shows its logits alone. The network is changed in place (its
    class becomes a subclass), so that DDP, torch.compile and checkpoints see the network they know.

    Args:
        network: as nnU-Net builds it.

    Returns:
        The same object.
    """
    if "return_taps" in signature(type(network).forward).parameters:
        return network
    # Whoever changed the forward of a U-Net may do more than the two steps that _TappedUNet repeats.
    is_unet = any(isinstance(network, unet) and type(network).forward is unet.forward for unet in UNETS)
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

    def forward(self, x: Tensor, return_taps: Request = False) -> TensorOrList | NetworkTaps:
        skips = self.encoder(x)
        logits = self.decoder(skips)
        return logits if return_taps is False else NetworkTaps(logits, {ENCODED: skips[-1]})


class _TappedLogits(_Tapped):
    def forward(self, x: Tensor, return_taps: Request = False) -> TensorOrList | NetworkTaps:
        logits = super().forward(x)
        return logits if return_taps is False else NetworkTaps(logits)


@cache
def _subclass(tapped: type[_Tapped], network_class: type[nn.Module]) -> type[nn.Module]:
    return type(f"{network_class.__name__}WithTaps", (tapped, network_class), {})
