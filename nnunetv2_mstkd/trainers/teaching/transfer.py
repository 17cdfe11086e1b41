"""Starting a student from a teacher's weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from nnunetv2_mstkd.architectures.matching import matching, share, tensors
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
    theirs, ours = tensors(teacher), tensors(student)
    copied = matching(student, teacher)
    for name in copied:
        source = theirs[name]
        module, _, kind = name.rpartition(".")
        ours[name].copy_(source[:, inverse] if module in first and kind == "weight" else source)
    return Transfer(tuple(copied), len(ours), share(student, copied))
