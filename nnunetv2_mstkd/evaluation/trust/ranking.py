"""How well a score finds bad segmentations: ROC and risk-coverage curve.

Sources: Hanley and McNeil, Radiology 143, 1982, 29-36, for the area under the ROC curve as a rank statistic;
Geifman and El-Yaniv, NeurIPS 2017, and Zenk et al., Medical Image Analysis 2025 (arXiv 2406.03323), for
risk-coverage curves with 1 - Dice as the risk.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import rankdata


def auroc(scores: np.ndarray, bad: np.ndarray) -> float:
    """Return the chance that a bad segmentation has the lower score; ties count half.

    Args:
        scores: (N,), high for segmentations that are trusted.
        bad: (N,) bool.

    Returns:
        0.5 says nothing, 1 is perfect; nan where all are bad, or none is.
    """
    count, total = int(bad.sum()), len(bad)
    if count in (0, total):
        return math.nan
    ranks = rankdata(-scores)
    return float((ranks[bad].sum() - count * (count + 1) / 2) / (count * (total - count)))


def stratified_auroc(scores: np.ndarray, bad: np.ndarray, strata: np.ndarray) -> float:
    """Return :func:`auroc` over pairs of one stratum (N,) only; nan where no stratum has both kinds."""
    total, pairs = 0.0, 0
    for stratum in np.unique(strata):
        members = strata == stratum
        count = int(bad[members].sum()) * int((~bad[members]).sum())
        if count:
            total += count * auroc(scores[members], bad[members])
            pairs += count
    return total / pairs if pairs else math.nan


def risk_coverage(scores: np.ndarray, risks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep the most trusted segmentations: how bad are they on average?

    Args:
        scores: (N,), high for segmentations that are trusted.
        risks: (N,), 1 - Dice.

    Returns:
        Coverage, the share that is kept (N,) in 1 / N to 1, and the mean risk of those (N,). Of equal scores
        nobody knows which comes first: their risk is averaged.
    """
    order = np.argsort(-scores, kind="stable")
    _, inverse, counts = np.unique(-scores[order], return_inverse=True, return_counts=True)
    expected = (np.bincount(inverse, weights=risks[order]) / counts)[inverse]
    kept = np.arange(1, len(scores) + 1)
    return kept / len(scores), np.cumsum(expected) / kept


def area_under(scores: np.ndarray, risks: np.ndarray) -> float:
    """Return the area under the risk-coverage curve; less is better."""
    return float(risk_coverage(scores, risks)[1].mean()) if len(scores) else math.nan
