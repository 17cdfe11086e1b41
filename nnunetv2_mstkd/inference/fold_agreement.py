"""How far the folds of a model agree about a case: the Dice of their segmentations, pair by pair.

Source: pairwise Dice of an ensemble's members, the best of the confidence scores that Zenk et al. compared
(Medical Image Analysis 2025, arXiv 2406.03323).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from nnunetv2_mstkd.datasets.regions import Regions, region_mask


def fold_agreement(segmentations: Sequence[np.ndarray], regions: Regions) -> dict[str, float]:
    """Average the Dice over all pairs of segmentations.

    Args:
        segmentations: labels of each fold, any shape, all alike; at least two.
        regions: name → label values.

    Returns:
        Region → mean Dice in 0 to 1. Two folds that both see nothing agree: 1.
    """
    agreement = {}
    for name, labels in regions.items():
        masks = [region_mask(segmentation, labels) for segmentation in segmentations]
        sizes = [int(np.count_nonzero(mask)) for mask in masks]
        values = []
        for one, two in combinations(range(len(masks)), 2):
            total = sizes[one] + sizes[two]
            shared = int(np.count_nonzero(masks[one] & masks[two])) if total else 0
            values.append(2 * shared / total if total else 1.0)
        agreement[name] = float(np.mean(values))
    return agreement
