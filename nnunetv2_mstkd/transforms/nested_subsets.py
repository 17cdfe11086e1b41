"""Two nested subsets of what a case has: one patch is shown with more and with fewer modalities."""

from __future__ import annotations

import numpy as np

from nnunetv2_mstkd.transforms.subset_samplers import Mask, SubsetSampler, UniformSampler

# Draws of a sampler that gives everything again and again, before every strict subset is as likely.
_TRIES = 100


class NestedPairSampler:
    """Draws a non-empty subset strictly inside another one.

    With the uniform sampler every such pair of what the case has is equally likely: 3^M − 2^(M+1) + 1 pairs
    of M modalities, 50 of 4. Any other sampler draws the smaller subset, which must not be everything; the
    larger one is then uniform over the strict supersets.

    Args:
        sampler: of the smaller subset.
    """

    def __init__(self, sampler: SubsetSampler) -> None:
        self.sampler = sampler

    def sample(self, available: Mask) -> tuple[Mask, Mask]:
        """Flags (C,) of the larger and of the smaller subset, both within ``available`` (C,).

        A case of a single modality has no pair; both are that modality then.
        """
        if available.sum() < 2:
            return available.copy(), available.copy()
        if isinstance(self.sampler, UniformSampler):
            return _any_pair(available)
        for _ in range(_TRIES):
            smaller = self.sampler.sample(available)
            if (smaller != available).any():
                return smaller | UniformSampler().sample(available & ~smaller), smaller
        return _any_pair(available)

    def __repr__(self) -> str:
        return f"NestedPairSampler({self.sampler!r})"


def _any_pair(available: Mask) -> tuple[Mask, Mask]:
    members = np.flatnonzero(available)
    while True:
        # Of each modality: in neither, in the larger only, in both.
        places = np.random.randint(0, 3, size=len(members))
        if (places == 1).any() and (places == 2).any():
            larger, smaller = np.zeros_like(available), np.zeros_like(available)
            larger[members[places > 0]] = smaller[members[places > 1]] = True
            return larger, smaller
