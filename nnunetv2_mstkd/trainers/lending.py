"""Teaches modalities what to lend to each other, pair by pair."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nnunetv2_mstkd.architectures.borrowing import Borrowing
from nnunetv2_mstkd.architectures.presence import shown
from nnunetv2_mstkd.losses.expression import divergence


def learn_to_lend(borrowing: Borrowing, data: Tensor, backward: Callable[[Tensor], None]) -> Tensor:
    """Expression loss over pairs of modalities that the cases have, and its gradients.

    The mean, over ordered pairs of every sample and over voxels, of the divergence of what one modality lends
    to the other from what that one shows of itself (without gradient). The first convolution's borrowed part
    begins with weights of zero, through which no gradient comes to what is lent: this loss gives it one from
    the first step on. After DeMoSeg (BIBM 2024), whose loss is a sum, in which both sides learn.

    Args:
        borrowing: of the network, not in a wrapper.
        data: whole patches (B, M or more, ...), nothing masked.
        backward: adds a loss's gradients to those there are; called once for each pair, so that the maps of
            one are in memory.

    Returns:
        The loss, without gradient; 0 where no case has two modalities.
    """
    there = shown(data[:, : borrowing.modalities])
    counted = [(there[:, m] & there[:, k]).float() for m, k in borrowing.pairs]
    number = torch.stack(counted).sum().clamp_min(1)
    total = torch.zeros((), device=data.device)
    for both, (own, lent) in zip(counted, borrowing.expressions(data), strict=True):
        loss = (divergence(own=own, lent=lent) * both).sum() / number
        backward(loss)
        total += loss.detach()
    return total
