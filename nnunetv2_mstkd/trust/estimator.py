"""From measured rows of one region to what a new row's Dice will be, and whether to look at it.

Without signals, a new case is one more case of its subset. With signals (what is known of a case without its
true segmentation: predicted volume, agreement of folds), a ridge regression says what Dice to expect, each
measured row as seen by the regression of the *other* patients, and the residuals of the subset make the
interval: Mondrian conformal prediction (Vovk, Gammerman and Shafer, 2005, chapter 4) with subsets as classes,
around a regression with leave-one-out residuals (Barber et al., Annals of Statistics 49, 2021, 486-507). So
coverage is promised for each subset, not only for all together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nnunetv2_mstkd.trust.conformal import (
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
        else:
            self._centres = np.zeros(len(subsets))
        self._residuals: dict[str, tuple[float, Interval, int, int]] = {}

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
        (found,) = self.estimates(np.array([subset], dtype=object), np.array([volume]), np.array([agreement]))
        return found

    def estimates(self, subsets: np.ndarray, volumes: np.ndarray, agreements: np.ndarray) -> list[Estimate]:
        """Say it of many cases with known subsets; all (N,)."""
        centres = np.zeros(len(subsets))
        if self.signals:
            centres = self._regression.expect(subsets, np.stack([volumes, agreements], axis=1))
        return [self._estimate(float(c), subset) for c, subset in zip(centres, subsets, strict=True)]

    def _estimate(self, centre: float, subset: str) -> Estimate:
        if subset not in self._residuals:
            self._residuals[subset] = self._of_subset(subset)
        middle, around, cases, patients = self._residuals[subset]
        low, high = (float(np.clip(centre + end, 0, 1)) for end in (around.low, around.high))
        median = float(np.clip(centre + middle, 0, 1))
        return Estimate(median, Interval(low, high, around.sides), cases, patients)

    def _of_subset(self, subset: str) -> tuple[float, Interval, int, int]:
        """Residuals of a subset: median, interval, and how many there are of how many patients."""
        members = self.subsets == subset
        residuals, patients = (self.facts.dice - self._centres)[members], self.patients[members]
        middle = weighted_median(residuals, patients)
        return middle, interval(residuals, patients), len(residuals), len(np.unique(patients))

    @cached_property
    def scores(self) -> np.ndarray:
        """Expected Dice of each measured row (N,), its own patient left out."""
        scores = np.empty(len(self.subsets))
        residuals = self.facts.dice - self._centres
        for subset in self._known:
            members = np.flatnonzero(self.subsets == subset)
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
