"""What a region's Dice depends on beyond the subset, where that can be shown.

A signal is used if, in cross-validation over patients, intervals that use it have a better interval score
than those of the subset alone, and the 95 % interval of that difference over patients excludes zero. The
interval score (Gneiting and Raftery, Journal of the American Statistical Association 102, 2007, 359-378) is
the width plus 2 / (1 - coverage) times what a value lies outside: narrow intervals that miss do not win.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nnunetv2_mstkd.evaluation.comparison.statistics import Bootstrap, group_means, interval
from nnunetv2_mstkd.trust.conformal import COVERAGE
from nnunetv2_mstkd.trust.estimator import AGREEMENT, VOLUME, Estimator
from nnunetv2_mstkd.trust.facts import Facts

CHOICES: tuple[tuple[str, ...], ...] = ((VOLUME,), (AGREEMENT,), (VOLUME, AGREEMENT))
PARTS = 5
_SEED, _RESAMPLES = 0, 2000
_ENOUGH = 10  # patients below whom nothing is tried


def parts_of(patients: np.ndarray, seed: int, count: int = PARTS) -> Iterator[np.ndarray]:
    """Deal patients (N,) into parts at random; yield the mask (N,) of each part's rows."""
    names = np.unique(patients)
    order = np.random.default_rng(seed).permutation(names)
    for part in range(min(count, len(names))):
        yield np.isin(patients, order[part::count])


def interval_score(dice: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the interval score of each value (N,); less is better."""
    outside = np.maximum(low - dice, 0) + np.maximum(dice - high, 0)
    return (high - low) + 2 / (1 - COVERAGE) * outside


@dataclass(frozen=True)
class Answers:
    """What an estimator says of rows; all (N,)."""

    median: np.ndarray
    low: np.ndarray
    high: np.ndarray


def ask(estimator: Estimator, facts: Facts, region: str) -> Answers:
    """Ask for every row; an unknown subset is answered by nan and the interval from 0 to 1."""
    found = facts.regions[region]
    answers = np.full((len(facts), 3), (np.nan, 0.0, 1.0))
    rows = zip(facts.subsets, found.predicted, found.agreement, strict=True)
    for number, (subset, volume, agreement) in enumerate(rows):
        if estimator.knows(subset):
            estimate = estimator.estimate(subset, float(volume), float(agreement))
            answers[number] = estimate.median, estimate.interval.low, estimate.interval.high
    return Answers(*answers.T)


def fit(facts: Facts, region: str, signals: Sequence[str]) -> Estimator:
    """Fit an estimator to all rows."""
    return Estimator(facts.regions[region], facts.subsets, facts.patients, signals)


@dataclass(frozen=True)
class Shown:
    """What was tried for a region.

    Attributes:
        signals: the choice with the best interval score among those that are shown to help; none is ().
        changes: choice → mean change of the interval score against the subset alone, and its 95 % interval
            over patients.
    """

    signals: tuple[str, ...]
    changes: dict[str, tuple[float, float, float]]


def show_signals(facts: Facts, region: str, seed: int = _SEED) -> Shown:
    """Find out which signals help, if any."""
    names = np.unique(facts.patients)
    found = facts.regions[region]
    known = ~np.isnan(found.agreement).any()
    choices = [choice for choice in CHOICES if known or AGREEMENT not in choice]
    if len(names) < _ENOUGH:
        return Shown((), {})
    base = _scores_by_patient(facts, region, (), seed)
    draws = Bootstrap(len(names), seed=_SEED, resamples=_RESAMPLES)
    changes, helping = {}, {}
    for choice in choices:
        change = _scores_by_patient(facts, region, choice, seed) - base
        low, high = interval(draws.means(change[:, None]))
        mean = float(np.nanmean(change))
        changes[" and ".join(choice)] = (round(mean, 4), round(float(low[0]), 4), round(float(high[0]), 4))
        if high[0] < 0:
            helping[choice] = mean
    best = min(helping, key=lambda c: helping[c]) if helping else ()
    return Shown(best, changes)


def _scores_by_patient(facts: Facts, region: str, signals: Sequence[str], seed: int) -> np.ndarray:
    """Return the interval score of each patient, whose rows the estimator has not seen."""
    names, numbers = np.unique(facts.patients, return_inverse=True)
    scores = np.full(len(facts), np.nan)
    for part in parts_of(facts.patients, seed):
        estimator = fit(facts.rows(~part), region, signals)
        tested = facts.rows(part)
        answers = ask(estimator, tested, region)
        scores[part] = interval_score(tested.regions[region].dice, answers.low, answers.high)
    return group_means(scores[:, None], numbers, len(names))[:, 0]
