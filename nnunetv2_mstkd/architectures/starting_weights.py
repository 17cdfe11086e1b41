"""Bringing the weights of one network into another that may have other input channels.

Of nnU-Net's networks only the first convolutions know the input channels: for every output feature they have
a kernel per channel, and add up what the kernels find. So a network for other channels starts from kernels
that are made of those that there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.borrowing import BORROWING_WEIGHTS
from nnunetv2_mstkd.architectures.conditioning import CONDITIONING_WEIGHT
from nnunetv2_mstkd.architectures.shapes import input_convolutions

# Convolutions and norms of dynamic_network_architectures are registered twice. Its forward pass uses these;
# in checkpoints of nnssl's sparse pre-training the other name holds a tensor that was never trained.
_USED = ".all_modules."
# For every input channel: how much of each of the other network's kernels its kernel has.
Shares = Sequence[Sequence[float]]


def names_of_tensors(network: nn.Module) -> list[tuple[Tensor, list[str]]]:
    """Every weight and buffer that a checkpoint keeps, with all names that it has there, in order."""
    found: dict[int, tuple[Tensor, list[str]]] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        found.setdefault(id(tensor), (tensor, []))[1].append(name)
    return list(found.values())


def value_under(names: Sequence[str], weights: Mapping[str, Tensor]) -> Tensor | None:
    """What ``weights`` hold under one of the names of a tensor, the name that a pass uses before others."""
    there = [name for name in names if name in weights]
    used = [name for name in there if _USED in name]
    return weights[(used or there)[0]] if there else None


def input_channels_in(
    network: nn.Module, weights: Mapping[str, Tensor], input_shape: Sequence[int]
) -> int | None:
    """Number of input channels of the network whose weights these are, judged by its first convolution.

    Args:
        network: the one that will take the weights.
        weights: by name.
        input_shape: (B, C, ...) that ``network`` takes.

    Returns:
        ``None`` where ``network`` has no convolution over all its input channels (an encoder per modality,
        say), or ``weights`` lack it.
    """
    first = _input_kernels(network, input_shape)
    for _, names in names_of_tensors(network):
        value = value_under(names, weights) if names[0] in first else None
        if value is not None and value.ndim == len(input_shape):
            return value.shape[1]
    return None


def _input_kernels(network: nn.Module, input_shape: Sequence[int]) -> set[str]:
    return {f"{name}.weight" for name in input_convolutions(network, input_shape)}


@dataclass(frozen=True)
class Fitted:
    """What a network may take of given weights.

    Attributes:
        values: by the first name of each tensor of the network.
        left: first name → why the network's own value stays, for all other tensors.
        used: names of the given weights that were looked at.
    """

    values: Mapping[str, Tensor]
    left: Mapping[str, str]
    used: frozenset[str]


ABSENT = "absent"


def knows_modalities(name: str) -> str | None:
    """Name the setting that gave a network this tensor, which has a place per modality; else ``None``."""
    if name == CONDITIONING_WEIGHT:
        return "conditioning"
    return "borrowing" if name.startswith(BORROWING_WEIGHTS) else None


@torch.no_grad()
def fit_weights(
    network: nn.Module, weights: Mapping[str, Tensor], shares: Shares | None, input_shape: Sequence[int]
) -> Fitted:
    """Find a value for every tensor of a network among the weights of another.

    Args:
        network: on any device, the meta device included; not changed.
        weights: by name, as in a checkpoint.
        shares: (C, C'), for each of the C input channels of ``network`` how much of each of the C' kernels of
            ``weights`` its kernel has. A row of zeros keeps the network's own kernel. ``None`` leaves the
            channels as they are.
        input_shape: (B, C, ...) that ``network`` takes.
    """
    first = _input_kernels(network, input_shape) if shares is not None else set()
    values: dict[str, Tensor] = {}
    left: dict[str, str] = {}
    used: set[str] = set()
    for own, names in names_of_tensors(network):
        name, value = names[0], value_under(names, weights)
        used.update(n for n in names if n in weights)
        if value is None:
            left[name] = ABSENT
            continue
        if shares is not None and name in first and value.shape[1:2] == (len(shares[0]),):
            value = _mixed(own, value, shares)
        elif shares is not None and name == CONDITIONING_WEIGHT and value.ndim == own.ndim:
            value = _renamed(own, value, shares)
        if name.startswith(BORROWING_WEIGHTS) and not _are_the_same(shares):
            left[name] = "between other modalities"  # a place per pair: there is nothing to begin with
        elif value.shape != own.shape:
            left[name] = f"{tuple(value.shape)} there, {tuple(own.shape)} here"
        else:
            values[name] = value
    return Fitted(values, left, frozenset(used))


def _are_the_same(shares: Shares | None) -> bool:
    """Whether both networks have the same input channels in the same order."""
    return shares is None or all(
        len(row) == len(shares) and share == (here == there)
        for here, row in enumerate(shares)
        for there, share in enumerate(row)
    )


def _mixed(own: Tensor, kernels: Tensor, shares: Shares) -> Tensor:
    """Kernels (O, C, ...) of the network's input channels, made of those (O, C', ...) of the other's."""
    if (own.shape[0], *own.shape[2:]) != (kernels.shape[0], *kernels.shape[2:]):
        return kernels  # does not fit whatever its channels
    if own.is_meta:
        return torch.empty((kernels.shape[0], len(shares), *kernels.shape[2:]), device="meta")
    made = []
    for channel, row in enumerate(shares):
        parts = [kernels[:, other] * share for other, share in enumerate(row) if share]
        # A share of 1 gives the very kernel: times one, and nothing added.
        made.append(sum(parts[1:], parts[0]) if parts else own[:, channel].to(kernels.device))
    return torch.stack(made, dim=1)


def _renamed(own: Tensor, weight: Tensor, shares: Shares) -> Tensor:
    """Columns (2, ΣC, M) of the conditioning, of the modalities that both have; zeros for others."""
    made = torch.zeros((*weight.shape[:2], own.shape[2]), device=weight.device)
    for channel, row in enumerate(shares[: own.shape[2]]):
        others = [other for other, share in enumerate(row) if share]
        if len(others) == 1 and row[others[0]] == 1 and others[0] < weight.shape[2]:
            made[..., channel] = weight[..., others[0]]
    return made


@torch.no_grad()
def put_into(network: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy values, by the first name of each tensor, into a network."""
    for own, names in names_of_tensors(network):
        if names[0] in values:
            own.copy_(values[names[0]])
