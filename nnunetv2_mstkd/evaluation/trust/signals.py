"""What a region's Dice depends on beyond the subset, where that can be shown.

A signal is used if what the other patients then let expect of each patient has a smaller mean squared error
than what the subset alone lets expect, and than with a placebo, the same signal shuffled among patients. It
counts as shown only where the 95 % intervals of both differences, over patients, exclude zero. A dozen
patients rarely show anything, so that is not asked for before a signal is used; coverage holds either way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nnunetv2_mstkd.evaluation.comparison.statistics import Bootstrap, group_means, interval
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
        signals: the choice with the smallest error, if smaller than that of both others; none is ().
        beyond_chance: whether the intervals of its changes exclude zero.
        changes: choice → mean change of the squared error and its 95 % interval over patients, against the
            subset ``alone`` and against the ``placebo``, the same signals shuffled among patients.
    """

    signals: tuple[str, ...]
    beyond_chance: bool
    changes: dict[str, dict[str, tuple[float, float, float]]]


def show_signals(facts: Facts, region: str, seed: int = _SEED) -> Shown:
    """Find out which signals help, if any."""
    names = np.unique(facts.patients)
    found = facts.regions[region]
    known = ~np.isnan(found.agreement).any()
    choices = [choice for choice in CHOICES if known or AGREEMENT not in choice]
    if len(names) < _ENOUGH:
        return Shown((), False, {})
    draws = Bootstrap(len(names), seed=_SEED, resamples=_RESAMPLES)
    base, shuffled = _errors_by_patient(facts, region, ()), _shuffled(facts, region, seed)
    changes, helping = {}, {}
    for choice in choices:
        errors = _errors_by_patient(facts, region, choice)
        placebo = _errors_by_patient(shuffled, region, choice)
        tried = {
            name: _change(errors - other, draws) for name, other in (("alone", base), ("placebo", placebo))
        }
        changes[" and ".join(choice)] = tried
        if all(mean < 0 for mean, _, _ in tried.values()):
            helping[choice] = tried["alone"][0]
    best: tuple[str, ...] = min(helping, key=lambda c: helping[c]) if helping else ()
    sure = bool(best) and all(high < 0 for _, _, high in changes[" and ".join(best)].values())
    return Shown(best, sure, changes)


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


def _errors_by_patient(facts: Facts, region: str, signals: Sequence[str]) -> np.ndarray:
    """Return the mean squared error of what other patients let expect of each patient."""
    names, numbers = np.unique(facts.patients, return_inverse=True)
    errors = (fit(facts, region, signals).scores - facts.regions[region].dice) ** 2
    return group_means(errors[:, None], numbers, len(names))[:, 0]
