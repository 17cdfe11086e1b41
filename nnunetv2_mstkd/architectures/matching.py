"""How much of one network fits into another: weights and buffers of the same name and shape."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain

from torch import Tensor, nn

from nnunetv2_mstkd.architectures.starting_weights import fit_weights, put_into


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


def start_from(
    student: nn.Module, teacher: nn.Module, order: Sequence[int], input_shape: Sequence[int]
) -> Transfer:
    """Copy every weight and buffer whose name and shape agree.

    Args:
        student: changed.
        teacher: source.
        order: for each input channel of the teacher, that of the student; whatever has a place per channel is
            brought into the student's order, see :func:`fit_weights`.
        input_shape: (B, C, ...) that the student takes.
    """
    shares = [[float(there == channel) for there in order] for channel in range(len(order))]
    fitted = fit_weights(student, teacher.state_dict(), shares, input_shape)
    put_into(student, fitted.values)
    of = len(fitted.values) + len(fitted.left)
    return Transfer(tuple(fitted.values), of, share(student, fitted.values))
