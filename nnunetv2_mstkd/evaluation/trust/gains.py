"""What one more sequence is worth: differences between subsets in the same cases."""

from __future__ import annotations

import pandas as pd

from nnunetv2_mstkd.evaluation.comparison.statistics import Bootstrap, interval
from nnunetv2_mstkd.modalities import format_subset
from nnunetv2_mstkd.trust.calibration import Gain
from nnunetv2_mstkd.trust.facts import Facts

_SEED, _RESAMPLES = 0, 2000
_DIGITS = 4


def measure_gains(facts: Facts, modalities: tuple[str, ...]) -> dict[str, dict[str, dict[str, Gain]]]:
    """Compare every subset with those that have one more sequence.

    Returns:
        Subset → the sequence that it lacks → region → what that adds to the Dice of a patient; only what at
        least two patients show.
    """
    subsets = sorted(set(facts.subsets.tolist()))
    dice = {
        region: pd.DataFrame({"subset": facts.subsets, "case": facts.cases, "dice": found.dice})
        .pivot(index="case", columns="subset", values="dice")
        for region, found in facts.regions.items()
    }  # fmt: skip
    patient_of_case = pd.Series(facts.patients, index=facts.cases).groupby(level=0).first()
    gains: dict[str, dict[str, dict[str, Gain]]] = {}
    for subset in subsets:
        used = frozenset(subset.split("+"))
        for name in modalities:
            larger = format_subset(used | {name}, modalities)
            if name in used or larger not in subsets:
                continue
            found = {
                region: gain
                for region, table in dice.items()
                if (gain := _gain(table[larger] - table[subset], patient_of_case)) is not None
            }
            if found:
                gains.setdefault(subset, {})[name] = found
    return gains


def _gain(differences: pd.Series, patient_of_case: pd.Series) -> Gain | None:
    known = differences.dropna()
    values = known.groupby(patient_of_case.reindex(known.index)).mean().to_numpy(dtype=float)
    if len(values) < 2:
        return None
    draws = Bootstrap(len(values), seed=_SEED, resamples=_RESAMPLES)
    low, high = interval(draws.means(values[:, None]))
    mean, least, most = (round(float(value), _DIGITS) for value in (values.mean(), low[0], high[0]))
    return Gain(mean, least, most, len(values))
