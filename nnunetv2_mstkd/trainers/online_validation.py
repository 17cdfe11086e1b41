"""Online validation over subsets: which subset a validation batch shows, and the Dice per subset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunetv2_mstkd.modalities import Subset, all_subsets


class SubsetRotation:
    """Deterministic rotation of the subsets over the validation batches.

    One batch of every epoch shows the full set, so that its Dice always exists. With n batches per epoch and
    S subsets, batch i of epoch e shows subset (e·n + i) mod S if n ≥ S; with fewer, the last batch shows the
    full set and the n - 1 others walk through the incomplete subsets, epoch after epoch. A single batch
    shows nothing but the full set.

    Args:
        modalities: names in channel order.
        batches_per_epoch: n.
    """

    def __init__(self, modalities: Sequence[str], batches_per_epoch: int) -> None:
        self.subsets = all_subsets(modalities)
        self.full = frozenset(modalities)
        self.incomplete = [subset for subset in self.subsets if subset != self.full]
        self.batches_per_epoch = batches_per_epoch

    def subset(self, epoch: int, batch: int) -> Subset:
        """The subset that validation batch ``batch`` of ``epoch`` shows."""
        schedule = self._schedule(epoch)
        return schedule[batch % len(schedule)]

    def _schedule(self, epoch: int) -> list[Subset]:
        if self.batches_per_epoch >= len(self.subsets):
            return _walk(self.subsets, epoch, self.batches_per_epoch)
        return [*_walk(self.incomplete, epoch, self.batches_per_epoch - 1), self.full]


def _walk(subsets: Sequence[Subset], epoch: int, steps: int) -> list[Subset]:
    """``steps`` subsets of an endless walk, from where the epochs before stopped."""
    return [subsets[(epoch * steps + i) % len(subsets)] for i in range(steps)]


@dataclass
class SubsetDice:
    """Pseudo Dice per subset, from counts summed over the patches that showed it.

    Attributes:
        counts: subset → (3, K) true positives, false positives, false negatives per class or region.
    """

    counts: dict[Subset, NDArray[np.float64]]

    @classmethod
    def empty(cls) -> SubsetDice:
        """No counts yet."""
        return cls({})

    def add(self, subset: Subset, counts: NDArray[np.float64]) -> None:
        """Add the counts (3, K) of one batch."""
        self.counts[subset] = self.counts.get(subset, 0) + np.asarray(counts, dtype=float)

    def merge(self, other: SubsetDice) -> None:
        """Add the counts of another process."""
        for subset, counts in other.counts.items():
            self.add(subset, counts)

    def dice(self, subset: Subset) -> NDArray[np.float64]:
        """Dice per class or region (K,); nan where neither prediction nor reference has a voxel."""
        tp, fp, fn = self.counts[subset]
        denominator = 2 * tp + fp + fn
        return np.where(denominator > 0, 2 * tp / np.maximum(denominator, 1), np.nan)

    def mean_per_class(self) -> NDArray[np.float64]:
        """Mean over the subsets seen, per class or region (K,)."""
        return _nanmean(np.stack([self.dice(s) for s in self.counts]), axis=0)

    def mean_foreground(self, subset: Subset) -> float:
        """Mean over classes or regions for one subset; nan if it was not seen."""
        return float(_nanmean(self.dice(subset), axis=0)) if subset in self.counts else float("nan")

    def mean(self) -> float:
        """Mean over subsets of their foreground means."""
        return float(_nanmean(np.array([self.mean_foreground(s) for s in self.counts]), axis=0))


def _nanmean(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """``np.nanmean`` without the warning for an all-nan slice, which is an expected case here."""
    valid = ~np.isnan(values)
    count = valid.sum(axis=axis)
    total = np.where(valid, values, 0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
