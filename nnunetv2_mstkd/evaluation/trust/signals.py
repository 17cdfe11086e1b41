"""What a region's Dice depends on beyond the subset, where that can be shown.

A signal is used if, in cross-validation over patients, intervals that use it have a better interval score
than those of the subset alone, and than those of a placebo, the same signal shuffled among patients (larger
classes of rows narrow intervals by themselves); the 95 % intervals of both differences exclude zero. The
interval score (Gneiting and Raftery, Journal of the American Statistical Association 102, 2007, 359-378) is
the width plus 2 / (1 - coverage) times what a value lies outside: narrow intervals that miss do not win.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

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
    """What an estimator says of rows; all (N,): median, ends of the interval, how many ends are known."""

    median: np.ndarray
    low: np.ndarray
    high: np.ndarray
    sides: np.ndarray


def ask(estimator: Estimator, facts: Facts, region: str) -> Answers:
    """Ask for every row; an unknown subset is answered by nan and the interval from 0 to 1."""
    found = facts.regions[region]
    answers = np.full((len(facts), 4), (np.nan, 0.0, 1.0, 0.0))
    known = np.array([estimator.knows(subset) for subset in facts.subsets], dtype=bool)
    told = estimator.estimates(facts.subsets[known], found.predicted[known], found.agreement[known])
    if told:
        answers[known] = [(e.median, e.interval.low, e.interval.high, e.interval.sides) for e in told]
    return Answers(*answers.T)


def fit(facts: Facts, region: str, signals: Sequence[str]) -> Estimator:
    """Fit an estimator to all rows."""
    return Estimator(facts.regions[region], facts.subsets, facts.patients, signals)


@dataclass(frozen=True)
class Shown:
    """What was tried for a region.

    Attributes:
        signals: the choice with the best interval score among those that are shown to help; none is ().
        changes: choice → mean change of the interval score and its 95 % interval over patients, against the
            subset ``alone`` and against the ``placebo``, the same signals shuffled among patients.
    """

    signals: tuple[str, ...]
    changes: dict[str, dict[str, tuple[float, float, float]]]


def show_signals(facts: Facts, region: str, seed: int = _SEED) -> Shown:
    """Find out which signals help, if any."""
    names = np.unique(facts.patients)
    found = facts.regions[region]
    known = ~np.isnan(found.agreement).any()
    choices = [choice for choice in CHOICES if known or AGREEMENT not in choice]
    if len(names) < _ENOUGH:
        return Shown((), {})
    draws = Bootstrap(len(names), seed=_SEED, resamples=_RESAMPLES)
    base, shuffled = _scores_by_patient(facts, region, (), seed), _shuffled(facts, region, seed)
    changes, helping = {}, {}
    for choice in choices:
        scores = _scores_by_patient(facts, region, choice, seed)
        placebo = _scores_by_patient(shuffled, region, choice, seed)
        tried = {
            name: _change(scores - other, draws) for name, other in (("alone", base), ("placebo", placebo))
        }
        changes[" and ".join(choice)] = tried
        if all(high < 0 for _, _, high in tried.values()):
            helping[choice] = tried["alone"][0]
    best: tuple[str, ...] = min(helping, key=lambda c: helping[c]) if helping else ()
    return Shown(best, changes)


def _change(differences: np.ndarray, draws: Bootstrap) -> tuple[float, float, float]:
    low, high = interval(draws.means(differences[:, None]))
    mean, least, most = (round(float(value), 4) for value in (np.nanmean(differences), low[0], high[0]))
    return mean, least, most


def _shuffled(facts: Facts, region: str, seed: int) -> Facts:
    """Give every case the signals of another one of its subset."""
    random, order = np.random.default_rng(seed), np.arange(len(facts))
    for subset in set(facts.subsets.tolist()):
        rows = np.flatnonzero(facts.subsets == subset)
        order[rows] = random.permutation(rows)
    found = facts.regions[region]
    other = replace(found, predicted=found.predicted[order], agreement=found.agreement[order])
    return replace(facts, regions={region: other})


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
