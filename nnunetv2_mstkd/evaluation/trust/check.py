"""Whether what is said of segmentations holds, measured on patients that it was not made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.comparison.statistics import interval, known_mean
from nnunetv2_mstkd.evaluation.trust.ranking import area_under, auroc, risk_coverage, stratified_auroc
from nnunetv2_mstkd.evaluation.trust.signals import ask, fit, parts_of, show_signals
from nnunetv2_mstkd.trust.conformal import patient_weights, upper_end
from nnunetv2_mstkd.trust.estimator import AGREEMENT, BAD_DICE, VOLUME, Estimator
from nnunetv2_mstkd.trust.expectation import volume_scores
from nnunetv2_mstkd.trust.facts import Facts

EXPECTED, SUBSET = "expected Dice", "subset alone"
REPEATS = 5  # how often patients are dealt into parts anew
_RESAMPLES = 400
_SAID = ("low", "high", "sides", "flagged", "stated", "volume_covered")  # fields of Verdicts
_CURVE = 21  # points of a risk-coverage curve that are kept


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What was said of rows whose patients the estimator had not seen; all (N,).

    Attributes:
        facts: the rows.
        low, high: interval of the Dice.
        sides: how many ends of it were known.
        flagged: whether the rule says to look; nan where there was no rule.
        stated: the miss rate that the rule stated; nan where there was no rule.
        volume_covered: whether the volume error stayed within what was said; nan where nothing was.
        scores: name of a score → its value, high for segmentations that are trusted; nan where not known.
        signals: which the estimator used; in cross-validation, how often each choice was made.
    """

    facts: Facts
    low: np.ndarray
    high: np.ndarray
    sides: np.ndarray
    flagged: np.ndarray
    stated: np.ndarray
    volume_covered: np.ndarray
    scores: Mapping[str, np.ndarray]
    signals: Mapping[str, int]

    @property
    def told(self) -> np.ndarray:
        """Rows (N,) of which anything was said: other patients had their subset, too."""
        return ~np.isnan(self.scores[EXPECTED])

    def rows(self, chosen: np.ndarray) -> Verdicts:
        """Return some rows, by mask or position."""
        kept = {name: getattr(self, name)[chosen] for name in _SAID}
        scores = {name: values[chosen] for name, values in self.scores.items()}
        return Verdicts(self.facts.rows(chosen), **kept, scores=scores, signals=self.signals)


def cross_validated(facts: Facts, region: str, seed: int) -> Verdicts:
    """Ask each part of the patients what the others say; signals are chosen by the others, too."""
    values: dict[str, np.ndarray] = {}
    chosen: dict[str, int] = {}
    for part in parts_of(facts.patients, seed):
        others, tested = facts.rows(~part), facts.rows(part)
        signals = show_signals(others, region, seed + 1).signals
        label = " and ".join(signals) or "none"
        chosen[label] = chosen.get(label, 0) + 1
        verdicts = judged(fit(others, region, signals), fit(others, region, ()), tested, region)
        for name, found in verdicts.items():
            values.setdefault(name, np.full(len(facts), np.nan))[part] = found
    return _verdicts(facts, values, chosen)


def transported(known: Facts, signals: Sequence[str], facts: Facts, region: str) -> Verdicts:
    """Ask what a model's ``trust.json`` says of other cases.

    Raises:
        MSTKDError: it goes by how far folds agree, and that was not recorded.
    """
    if AGREEMENT in signals and np.isnan(facts.regions[region].agreement).any():
        raise MSTKDError(
            f"trust.json goes by how far folds agree about {region}, and these evaluations did not record it;"
            " evaluate all its folds together"
        )
    values = judged(fit(known, region, signals), fit(known, region, ()), facts, region)
    return _verdicts(facts, values, {" and ".join(signals) or "none": 1})


def judged(estimator: Estimator, base: Estimator, facts: Facts, region: str) -> dict[str, np.ndarray]:
    """Say of each row what a user would have been told."""
    answers, plain = ask(estimator, facts, region), ask(base, facts, region)
    threshold = estimator.rule.threshold
    known = ~np.isnan(answers.median)
    flagged = np.full(len(facts), np.nan)
    if threshold is not None:
        flagged[known] = answers.median[known] <= threshold
    found = facts.regions[region]
    return {
        "low": answers.low,
        "high": answers.high,
        "sides": answers.sides,
        "flagged": flagged,
        "stated": np.full(len(facts), estimator.rule.miss_rate),
        "volume_covered": _volume_covered(estimator, facts, region),
        EXPECTED: answers.median,
        SUBSET: plain.median,
        VOLUME: found.predicted,
        AGREEMENT: found.agreement,
    }


def _volume_covered(estimator: Estimator, facts: Facts, region: str) -> np.ndarray:
    """Say of each row whether its volume error was within the 90 % that were told."""
    covered, found = np.full(len(facts), np.nan), facts.regions[region]
    for subset in set(facts.subsets.tolist()):
        rows, known = facts.subsets == subset, estimator.subsets == subset
        if not known.any():
            continue
        predicted, reference = estimator.facts.predicted[known], estimator.facts.reference[known]
        high = upper_end(volume_scores(predicted, reference), estimator.patients[known], 0.1)
        if np.isfinite(high):
            typical = float(np.median(predicted)) or 1.0
            errors = np.abs(found.predicted - found.reference)[rows]
            covered[rows] = errors <= high * (found.predicted[rows] + typical)
    return covered


def _verdicts(facts: Facts, values: Mapping[str, np.ndarray], signals: Mapping[str, int]) -> Verdicts:
    scores = {name: values[name] for name in (EXPECTED, SUBSET, VOLUME, AGREEMENT)}
    kept = {name: values[name] for name in _SAID}
    return Verdicts(facts, **kept, scores=scores, signals=signals)


@dataclass(frozen=True)
class Checked:
    """How what was said of a region held.

    Attributes:
        region: its name.
        patients, rows, bad: how many there were; bad is a Dice below 0.5.
        untold: rows beside these of which nothing was said: no other patient had their subset.
        coverage: share of patients' rows inside their interval, every patient counting as one, and the 95 %
            interval of that over patients. Rows without any interval are left out.
        by_subset: subset → coverage, every case counting as one.
        by_dice: coverage of the bad rows, and of the others: nothing promises them.
        width: mean width of the intervals.
        without_interval: share of the rows that had none, for too few patients.
        volume_coverage: share of volume errors within what was said.
        flagged: share of rows that were flagged; nan without a rule.
        missed: share of bad rows that were not flagged, every patient with bad ones counting as one.
        stated: the miss rate that was stated, at most.
        signals: choice → how often cross-validation made it.
        auroc: score → how well it finds bad rows: (value, low, high), the 95 % interval over patients.
        auroc_within: the same, comparing only rows of one subset: what is known beyond the subset.
        against: rival → how much larger the expected Dice's AUROC is than its own: (value, low, high).
        aurc: score → area under the risk-coverage curve; ``best possible`` and ``by chance`` beside.
        curves: score → mean 1 - Dice of the most trusted 5 %, 10 %, … 100 %.
    """

    region: str
    patients: int
    rows: int
    untold: int
    bad: int
    coverage: tuple[float, float, float]
    by_subset: Mapping[str, float]
    by_dice: tuple[float, float]
    width: float
    without_interval: float
    volume_coverage: float
    flagged: float
    missed: float
    stated: float
    signals: Mapping[str, int]
    auroc: Mapping[str, tuple[float, float, float]]
    auroc_within: Mapping[str, tuple[float, float, float]]
    against: Mapping[str, tuple[float, float, float]]
    aurc: Mapping[str, float]
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)


def check(facts: Facts, region: str, repeats: int = REPEATS) -> Checked:
    """Check a region by cross-validation over patients, dealt ``repeats`` times."""
    return summarise([cross_validated(facts, region, seed) for seed in range(repeats)], region)


def summarise(runs: Sequence[Verdicts], region: str) -> Checked:
    """Put the verdicts of one region together; several runs are of the same rows, and averaged.

    Raises:
        MSTKDError: nothing was said of any row.
    """
    told = np.all([run.told for run in runs], axis=0)
    if not told.any():
        raise MSTKDError(
            f"nothing can be checked of {region}: no patient has a subset that others have, too; give"
            " evaluations of more patients"
        )
    runs = [run.rows(told) for run in runs]
    facts = runs[0].facts
    found, patients, subsets = facts.regions[region], facts.patients, facts.subsets
    bad, risks, weights = found.dice < BAD_DICE, 1 - found.dice, patient_weights(patients)
    inside = _mean([_inside(run, found.dice) for run in runs])
    flags = _mean([run.flagged for run in runs])
    draws = list(_resampled(patients))
    names = [name for name in runs[0].scores if not any(np.isnan(run.scores[name]).any() for run in runs)]
    extremes = {"best possible": found.dice, "by chance": np.zeros_like(risks)}

    def over_runs(statistic: Callable[[Verdicts, np.ndarray], float]) -> tuple[float, float, float]:
        """Average over the runs; the interval is over patients, of the first."""
        every = np.arange(len(facts))
        value = float(np.mean([statistic(run, every) for run in runs]))
        return (value, *_ends(statistic(runs[0], rows) for rows in draws))

    def ranked(name: str) -> Callable[[Verdicts, np.ndarray], float]:
        return lambda run, rows: auroc(run.scores[name][rows], bad[rows])

    def ranked_within(name: str) -> Callable[[Verdicts, np.ndarray], float]:
        return lambda run, rows: stratified_auroc(run.scores[name][rows], bad[rows], subsets[rows])

    def better_than(name: str) -> Callable[[Verdicts, np.ndarray], float]:
        return lambda run, rows: ranked(EXPECTED)(run, rows) - ranked(name)(run, rows)

    return Checked(
        region=region,
        patients=len(np.unique(patients)),
        rows=len(facts),
        untold=int((~told).sum()),
        bad=int(bad.sum()),
        coverage=(
            _average(inside, weights),
            *_ends(_average(inside[rows], weights[rows]) for rows in draws),
        ),
        by_subset={name: _average(inside[subsets == name]) for name in dict.fromkeys(subsets.tolist())},
        by_dice=(_average(inside[bad]), _average(inside[~bad])),
        width=_average(np.concatenate([(run.high - run.low)[run.sides > 0] for run in runs])),
        without_interval=float(np.mean([run.sides == 0 for run in runs])),
        volume_coverage=_average(_mean([run.volume_covered for run in runs]), weights),
        flagged=_average(flags),
        missed=_average(1 - flags[bad], patient_weights(patients[bad])),
        stated=_average(np.concatenate([run.stated for run in runs])),
        signals=_counted(runs),
        auroc={name: over_runs(ranked(name)) for name in names},
        auroc_within={name: over_runs(ranked_within(name)) for name in names if name != SUBSET},
        against={name: over_runs(better_than(name)) for name in names if name != EXPECTED},
        aurc={
            **{name: float(np.mean([area_under(run.scores[name], risks) for run in runs])) for name in names},
            **{name: area_under(values, risks) for name, values in extremes.items()},
        },
        curves={
            **{name: _curve(runs[0].scores[name], risks) for name in names},
            **{name: _curve(values, risks) for name, values in extremes.items()},
        },
    )


def _inside(run: Verdicts, dice: np.ndarray) -> np.ndarray:
    """Say which rows (N,) are in their interval; nan where there was none."""
    covered = (run.low <= dice) & (dice <= run.high)
    return np.where(run.sides > 0, covered.astype(float), np.nan)


def _mean(values: Sequence[np.ndarray]) -> np.ndarray:
    return known_mean(np.stack(values), axis=0)


def _average(values: np.ndarray, weights: np.ndarray | None = None) -> float:
    known = ~np.isnan(values)
    if not known.any():
        return np.nan
    return float(np.average(values[known], weights=None if weights is None else weights[known]))


def _resampled(patients: np.ndarray) -> Iterator[np.ndarray]:
    """Draw patients with replacement; yield the positions of their rows."""
    rows = [np.flatnonzero(patients == patient) for patient in np.unique(patients)]
    generator = np.random.default_rng(0)
    for _ in range(_RESAMPLES):
        yield np.concatenate([rows[n] for n in generator.integers(0, len(rows), len(rows))])


def _ends(samples: Iterable[float]) -> tuple[float, float]:
    low, high = interval(np.array(list(samples), dtype=float)[:, None])
    return float(low[0]), float(high[0])


def _counted(runs: Sequence[Verdicts]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for run in runs:
        counts.update(run.signals)
    return dict(counts.most_common())


def _curve(scores: np.ndarray, risks: np.ndarray) -> list[float]:
    coverage, risk = risk_coverage(scores, risks)
    wanted = np.linspace(0, 1, _CURVE)[1:]
    return [float(risk[min(np.searchsorted(coverage, w - 1e-9), len(risk) - 1)]) for w in wanted]
