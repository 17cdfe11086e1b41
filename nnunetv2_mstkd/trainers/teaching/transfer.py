"""Starting a student from a teacher's weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.shapes import input_convolutions


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
    theirs, ours = _tensors(teacher), _tensors(student)
    copied = []
    for name, tensor in ours.items():
        source = theirs.get(name)
        if source is None or source.shape != tensor.shape:
            continue
        module, _, kind = name.rpartition(".")
        tensor.copy_(source[:, inverse] if module in first and kind == "weight" else source)
        copied.append(name)
    total = sum(tensor.numel() for tensor in ours.values())
    return Transfer(tuple(copied), len(ours), sum(ours[name].numel() for name in copied) / max(total, 1))


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers, each under one name."""
    return dict(chain(network.named_parameters(), network.named_buffers()))
