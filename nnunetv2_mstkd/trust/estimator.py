"""From measured rows of one region to what a new row's Dice will be, and whether to look at it.

Without signals, a new case is one more case of its subset. With signals (what is known of a case without its
true segmentation: predicted volume, agreement of folds), a ridge regression says what Dice to expect, each
measured row as seen by the regression of the *other* patients; rows of like expectation make up classes, and
the residuals of a class give its interval: Mondrian conformal regression (Boström and Johansson, Proceedings
of Machine Learning Research 128, 2020, 114-133).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nnunetv2_mstkd.trust.conformal import (
    COVERAGE,
    Interval,
    interval,
    patient_weights,
    patients_needed,
    upper_end,
    weighted_median,
)
from nnunetv2_mstkd.trust.facts import RegionFacts

VOLUME, AGREEMENT = "predicted volume", "fold agreement"
SIGNALS = (VOLUME, AGREEMENT)
LIKE_SUBSETS = (
    "subsets of like Dice"  # no signal: residuals of all subsets that expect the like, put together
)
BAD_DICE = 0.5  # a segmentation below it is one that a reader should have seen
MISS_RATE = 0.1  # share of bad segmentations that the rule may leave unflagged
_CLASSES = 5  # at most so many classes of like expectation
_RIDGE = 1.0


@dataclass(frozen=True)
class Estimate:
    """What is expected of one row.

    Attributes:
        median: of the Dice.
        interval: of the Dice, in 0 to 1.
        cases, patients: how many the interval rests on.
    """

    median: float
    interval: Interval
    cases: int
    patients: int


@dataclass(frozen=True)
class Rule:
    """Look at a segmentation whose expected Dice is at most ``threshold``.

    Attributes:
        threshold: expected Dice; None where no measured case was bad.
        miss_rate: share of bad segmentations of new patients that stay unflagged, at most.
        bad, bad_patients: how many measured rows were bad, and of how many patients.
        flagged: share of the measured rows that the rule flags.
    """

    threshold: float | None
    miss_rate: float
    bad: int
    bad_patients: int
    flagged: float


class Estimator:
    """What was measured of one region, made ready for questions.

    Attributes:
        facts, subsets, patients: what was measured, N rows.
        signals: those that it uses.
    """

    def __init__(
        self, facts: RegionFacts, subsets: np.ndarray, patients: np.ndarray, signals: Sequence[str] = ()
    ) -> None:
        """Fit.

        Args:
            facts: N rows.
            subsets, patients: (N,).
            signals: some of ``SIGNALS``.
        """
        self.facts, self.subsets, self.patients = facts, subsets, patients
        self.signals = tuple(signals)
        self._known = sorted(set(subsets.tolist()))
        if self.signals:
            self._regression = _Regression(self._known, self.signals, facts, subsets, patients)
            self._centres = self._regression.of_other_patients()
            self._edges = _class_edges(self._centres, patients)
            self._classes = np.searchsorted(self._edges, self._centres, side="right")
        else:
            self._centres = np.zeros(len(subsets))
            self._classes = np.searchsorted(self._known, subsets)
        self._described: dict[int, tuple[float, Interval, int, int]] = {}

    def knows(self, subset: str) -> bool:
        """Say whether any case was measured under a subset."""
        return subset in self._known

    def estimate(self, subset: str, volume: float, agreement: float = math.nan) -> Estimate:
        """Say what Dice to expect of a new case.

        Args:
            subset: one that is known.
            volume: predicted, in the unit of the facts.
            agreement: of the folds; needed where it is among the signals.
        """
        subsets, values = np.array([subset], dtype=object), np.array([[volume, agreement]])
        (centre,), (group,) = self._places(subsets, values)
        return self._estimate(float(centre), int(group))

    def estimates(self, subsets: np.ndarray, volumes: np.ndarray, agreements: np.ndarray) -> list[Estimate]:
        """Say it of many cases with known subsets; all (N,)."""
        places = self._places(subsets, np.stack([volumes, agreements], axis=1))
        return [self._estimate(float(centre), int(group)) for centre, group in zip(*places, strict=True)]

    def _places(self, subsets: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return centre and class (N,) of rows with predicted volume and agreement (N, 2)."""
        if not self.signals:
            return np.zeros(len(subsets)), np.searchsorted(self._known, subsets)
        centres = self._regression.expect(subsets, values)
        return centres, np.searchsorted(self._edges, centres, side="right")

    def _estimate(self, centre: float, group: int) -> Estimate:
        middle, around, cases, patients = self._class(group)
        low, high = (float(np.clip(centre + end, 0, 1)) for end in (around.low, around.high))
        median = float(np.clip(centre + middle, 0, 1))
        return Estimate(median, Interval(low, high, around.sides), cases, patients)

    def _class(self, group: int) -> tuple[float, Interval, int, int]:
        """Residuals of a class: their median, their interval, and how many there are of how many patients."""
        if group not in self._described:
            members = self._classes == group
            residuals = (self.facts.dice - self._centres)[members]
            patients = self.patients[members]
            middle = weighted_median(residuals, patients)
            found = (middle, interval(residuals, patients), int(members.sum()), len(np.unique(patients)))
            self._described[group] = found
        return self._described[group]

    @cached_property
    def scores(self) -> np.ndarray:
        """Expected Dice of each measured row (N,), its own patient left out."""
        scores = np.empty(len(self.subsets))
        residuals = self.facts.dice - self._centres
        for group in np.unique(self._classes):
            members = np.flatnonzero(self._classes == group)
            values, owners = residuals[members], self.patients[members]
            for patient in np.unique(owners):
                others = owners != patient
                middle = weighted_median(values[others], owners[others]) if others.any() else 0.0
                own = members[~others]
                scores[own] = np.clip(self._centres[own] + middle, 0, 1)
        return scores

    @cached_property
    def rule(self) -> Rule:
        """When to look."""
        bad = self.facts.dice < BAD_DICE
        count = len(np.unique(self.patients[bad]))
        if not count:
            return Rule(None, math.nan, 0, 0, 0.0)
        if count >= patients_needed(MISS_RATE):
            threshold, missed = upper_end(self.scores[bad], self.patients[bad], MISS_RATE), MISS_RATE
        else:
            threshold, missed = float(self.scores[bad].max()), 1 / (count + 1)
        flagged = float(np.mean(self.scores <= threshold)) if len(self.scores) else 0.0
        return Rule(threshold, missed, int(bad.sum()), count, flagged)


def _class_edges(centres: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Cut rows into classes of like expectation, as many as have enough patients each for both ends."""
    needed = patients_needed((1 - COVERAGE) / 2)
    for count in range(_CLASSES, 1, -1):
        edges = np.unique(np.quantile(centres, np.arange(1, count) / count))
        classes = np.searchsorted(edges, centres, side="right")
        sizes = [len(np.unique(patients[classes == c])) for c in range(len(edges) + 1)]
        if min(sizes) > needed:
            return edges
    return np.empty(0)


class _Regression:
    """Ridge regression of Dice on the subset and the signals, each with its square."""

    def __init__(
        self,
        known: Sequence[str],
        signals: Sequence[str],
        facts: RegionFacts,
        subsets: np.ndarray,
        patients: np.ndarray,
    ) -> None:
        self._known, self._columns = list(known), [SIGNALS.index(name) for name in signals]
        some = facts.predicted[facts.predicted > 0]
        self._unit = float(np.median(some)) / 10 if len(some) else 1.0
        values = self._transformed(np.stack([facts.predicted, facts.agreement], axis=1))
        self._mean = values.mean(axis=0)
        spread = values.std(axis=0)
        self._spread = np.where(spread > 0, spread, 1.0)
        self._lowest, self._highest = values.min(axis=0), values.max(axis=0)
        self._rows = self._design(subsets, values)
        self._patients = patients
        self._level = float(np.average(facts.dice, weights=patient_weights(patients)))
        self._targets = facts.dice - self._level
        self._gram = self._rows.T @ self._rows + _RIDGE * np.eye(self._rows.shape[1])
        self._moments = self._rows.T @ self._targets
        self._weights = np.linalg.solve(self._gram, self._moments)

    def expect(self, subsets: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Return the expected Dice (N,) of rows with predicted volume and agreement (N, 2)."""
        # A square does not extrapolate: beyond what was measured it counts as the last that was.
        inside = np.clip(self._transformed(values), self._lowest, self._highest)
        return np.clip(self._design(subsets, inside) @ self._weights + self._level, 0, 1)

    def of_other_patients(self) -> np.ndarray:
        """Return each row's expectation by the regression without its patient (N,)."""
        expected = np.empty(len(self._targets))
        for patient in np.unique(self._patients):
            own = self._patients == patient
            rows = self._rows[own]
            weights = np.linalg.solve(self._gram - rows.T @ rows, self._moments - rows.T @ self._targets[own])
            expected[own] = rows @ weights
        return np.clip(expected + self._level, 0, 1)

    def _design(self, subsets: np.ndarray, values: np.ndarray) -> np.ndarray:
        which = (subsets[:, None] == np.array(self._known, dtype=object)[None]).astype(float)
        standard = ((values - self._mean) / self._spread)[:, self._columns]
        return np.concatenate([which, standard, standard**2], axis=1)

    def _transformed(self, values: np.ndarray) -> np.ndarray:
        """Take the logarithm of the volume: twice as large means the same for small and large."""
        return np.stack([np.log1p(values[:, 0] / self._unit), np.nan_to_num(values[:, 1])], axis=1)
