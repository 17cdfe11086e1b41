"""How much of one network fits into another: weights and buffers of the same name and shape."""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain

from torch import Tensor, nn


def tensors(network: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers, each under one name."""
    return dict(chain(network.named_parameters(), network.named_buffers()))


def matching(network: nn.Module, source: nn.Module) -> list[str]:
    """Names in ``network`` of what ``source`` has in the same shape; both may be on the meta device."""
    theirs = tensors(source)
    return [
        name
        for name, tensor in tensors(network).items()
        if name in theirs and theirs[name].shape == tensor.shape
    ]


def share(network: nn.Module, names: Collection[str]) -> float:
    """Part of the network's values, from 0 to 1, that the tensors of these names hold."""
    ours = tensors(network)
    return sum(ours[name].numel() for name in names) / max(sum(t.numel() for t in ours.values()), 1)
