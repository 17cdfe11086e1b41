"""Features that one modality lends to another should be what that one would have shown itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_mstkd.losses.precision import full_precision


@full_precision
def divergence(*, own: Tensor, lent: Tensor) -> Tensor:
    """KL(softmax of ``own`` ‖ softmax of ``lent``) over the channels, its mean over the voxels: (B,).

    Args:
        own: what a modality shows of itself, (B, c, ...).
        lent: what another lends to it, (B, c, ...).
    """
    target = F.log_softmax(own, 1)
    terms = F.kl_div(F.log_softmax(lent, 1), target, reduction="none", log_target=True)
    return terms.sum(1).flatten(1).mean(1)


def released_expression_loss(blocks: Sequence[Tensor], present: Tensor) -> Tensor:
    """DeMoSeg's expression loss (BIBM 2024; released code 73cd4bb), as released.

    For every ordered pair of present modalities, the divergence of what one lends to the other from what the
    other shows itself, divided by the channels; summed over pairs; both sides learn. A sample with one
    modality has none. Over samples it is the mean, where the release sums over its batch of two: twice the
    weight is the release's, whatever the batch and the number of processes.

    Args:
        blocks: of each lender, (B, M, c, ...): its features for each modality, its own for itself.
        present: (B, M) bool.
    """
    pairs = [
        divergence(own=blocks[m][b : b + 1, m], lent=blocks[k][b : b + 1, m]) / blocks[k].shape[2]
        for b, flags in enumerate(present.tolist())
        for k, m in permutations(range(len(blocks)), 2)
        if flags[k] and flags[m]
    ]
    return torch.cat(pairs).sum() / len(present) if pairs else blocks[0].new_zeros((), dtype=torch.float32)
