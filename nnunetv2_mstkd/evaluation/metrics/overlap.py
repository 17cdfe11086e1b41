"""Voxel counts of two masks, and Dice."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Overlap(NamedTuple):
    """Voxels that both masks have (tp), only the prediction (fp), only the reference (fn)."""

    tp: int
    fp: int
    fn: int


def count_overlap(prediction: np.ndarray, reference: np.ndarray) -> Overlap:
    """Compare two bool masks of one shape (any number of axes).

    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"masks of different shapes: {prediction.shape} and {reference.shape}")
    tp = int(np.count_nonzero(prediction & reference))
    return Overlap(tp, int(np.count_nonzero(prediction)) - tp, int(np.count_nonzero(reference)) - tp)


def dice(tp: int, fp: int, fn: int, *, smooth: float = 0.0) -> float:
    """Compute ``(2 tp + smooth) / (2 tp + fp + fn + smooth)``; nan where that is 0 / 0."""
    denominator = 2 * tp + fp + fn + smooth
    return (2 * tp + smooth) / denominator if denominator else math.nan
