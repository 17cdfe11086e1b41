"""How much of one network fits into another: weights and buffers of the same name and shape."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.shapes import input_convolutions


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


@dataclass(frozen=True)
class Transfer:
    """How much of a network came from another.

    Attributes:
        tensors: names of the tensors that were copied.
        of: number of tensors that there are.
        share: of the network's values, from 0 to 1.
    """

    tensors: tuple[str, ...]
    of: int
    share: float


@torch.no_grad()
def start_from(
    student: nn.Module, teacher: nn.Module, order: Sequence[int], input_shape: Sequence[int]
) -> Transfer:
    """Copy every weight and buffer whose name and shape agree.

    Args:
        student: changed.
        teacher: source.
        order: for each input channel of the teacher, that of the student; the weights of convolutions that
            see the input are brought into the student's order.
        input_shape: (B, C, ...) that the student takes.
    """
    first = set(input_convolutions(student, input_shape))
    inverse = torch.tensor([order.index(channel) for channel in range(len(order))])
    theirs, ours = tensors(teacher), tensors(student)
    copied = matching(student, teacher)
    for name in copied:
        source = theirs[name]
        module, _, kind = name.rpartition(".")
        ours[name].copy_(source[:, inverse] if module in first and kind == "weight" else source)
    return Transfer(tuple(copied), len(ours), share(student, copied))
