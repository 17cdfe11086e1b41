"""Intervals that hold without assumptions about a distribution, from what was measured on other patients.

Split-conformal prediction: if a new patient is like those that were measured, its value is as likely to be at
any place among theirs. So of P measured values, the k-th smallest has at most a share k / (P + 1) of new
values below it. Cases of one patient, and one case under several subsets, are not independent: every patient
has the weight 1, however many values it gives.

Sources: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005; Lei et al., Journal of the
American Statistical Association 113, 2018, 1094-1111; Dunn, Wasserman and Ramdas, the same journal 118, 2023,
2491-2502, for several values per patient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

COVERAGE = 0.9  # the share of new cases that an interval is made to cover
_ROUNDING = 1e-9


def patients_needed(tail: float) -> int:
    """Count the patients from whom on an end of an interval exists: 19 for a tail of 0.05, 9 for 0.1."""
    return math.ceil(1 / tail - _ROUNDING) - 1


def patient_weights(patients: np.ndarray) -> np.ndarray:
    """Share the weight 1 of each patient (N,) among its values."""
    _, inverse, counts = np.unique(patients, return_inverse=True, return_counts=True)
    return 1.0 / counts[inverse]


def weighted_median(values: np.ndarray, patients: np.ndarray) -> float:
    """Return the median of values (N,), every patient counting as one; nan of none."""
    if not len(values):
        return math.nan
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(patient_weights(patients)[order])
    half = reached[-1] / 2
    first, last = (np.searchsorted(reached, half + s * _ROUNDING) for s in (-1, 1))
    ordered = values[order]
    return float((ordered[first] + ordered[min(last, len(values) - 1)]) / 2)


def lower_end(values: np.ndarray, patients: np.ndarray, tail: float) -> float:
    """Return the largest measured value that at most a share ``tail`` of new patients stays below.

    Args:
        values, patients: (N,), a value and whose it is.
        tail: in (0, 1).

    Returns:
        ``-inf`` where there are too few patients for any (:func:`patients_needed`).
    """
    count = len(np.unique(patients))
    if count < patients_needed(tail):
        return -math.inf
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(patient_weights(patients)[order])
    place = int(np.searchsorted(reached, tail * (count + 1) + _ROUNDING, side="right")) - 1
    return float(values[order][place]) if place >= 0 else -math.inf


def upper_end(values: np.ndarray, patients: np.ndarray, tail: float) -> float:
    """Return the smallest measured value that at most a share ``tail`` exceeds; ``inf`` for too few."""
    return -lower_end(-values, patients, tail)


@dataclass(frozen=True)
class Interval:
    """Where a new value is expected.

    Attributes:
        low, high: its ends; infinite where there are too few patients.
        sides: 2 where both ends were measured, 1 where only ``low`` was (fewer patients are enough for one
            end), 0 where neither was.
    """

    low: float
    high: float
    sides: int


def interval(values: np.ndarray, patients: np.ndarray, coverage: float = COVERAGE) -> Interval:
    """Return the interval that covers a share ``coverage`` of new patients.

    Equal tails from 19 patients on (for 90 %), only a lower end from 9 on, nothing below.
    """
    tail = (1 - coverage) / 2
    count = len(np.unique(patients))
    if count >= patients_needed(tail):
        return Interval(lower_end(values, patients, tail), upper_end(values, patients, tail), 2)
    if count >= patients_needed(2 * tail):
        return Interval(lower_end(values, patients, 2 * tail), math.inf, 1)
    return Interval(-math.inf, math.inf, 0)
