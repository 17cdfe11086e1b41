"""Ranks of the systems of the published tables: as published, and as measured here."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from nnunetv2_mstkd.evaluation.comparison.published import WHOLE
from nnunetv2_mstkd.evaluation.comparison.runs import ComparedRun
from nnunetv2_mstkd.evaluation.metrics.presentation import AVERAGE, METRICS

# Trainer → the system of the published tables that it trains.
SYSTEMS = {
    "nnUNetTrainerMSTKD": "MST-KDNet",
    "nnUNetTrainerMSTKDJoint": "MST-KDNet",
    "nnUNetTrainerMSTKDOfficial": "MST-KDNet",
    "nnUNetTrainerSMUNet": "SMUNet",
    "nnUNetTrainerMMFormer": "mmformer",
    "nnUNetTrainerM2FTrans": "M2FTrans",
    "nnUNetTrainerACN": "ACN",
    "nnUNetTrainerRMBTS": "RMBTS",
    "nnUNetTrainerRAHVED": "RA-HVED",
}
_COLUMNS = ["metric", "region", "system", "run", "subsets"]
_COLUMNS += ["published", "published_rank", "measured", "measured_rank"]


def systems_of(runs: Sequence[ComparedRun]) -> dict[str, str]:
    """Published system → name of the first run that trains it."""
    found: dict[str, str] = {}
    for run in runs:
        trainer = run.evaluations[0].record.model.get("trainer")
        if trainer in SYSTEMS:
            found.setdefault(SYSTEMS[trainer], run.name)
    return found


def rank_table(
    published: pd.DataFrame, means: pd.DataFrame, runs: Sequence[ComparedRun]
) -> pd.DataFrame | None:
    """Rank the systems that were both published and measured, by their mean over the same incomplete subsets.

    Those are the published ones that were evaluated here and in which every such system has a score. The
    published mean is computed from the columns: some printed averages are wrong, and so are columns of all
    modalities that repeat them. Equal means share the better rank.

    Args:
        published: :func:`published.read_published`.
        means: of the comparison.
        runs: of the comparison.

    Returns:
        metric, region, system, run, subsets (how many both means are over), published, published_rank,
        measured, measured_rank; best published one first. Published values as printed (Dice in %), measured
        ones as in ``means``. None where fewer than two systems were measured with modalities missing.
    """
    systems, pieces = systems_of(runs), []
    rows = published[(published["table"] == "comparison") & ~published["subset"].isin([WHOLE, AVERAGE])]
    for (metric, region), group in rows.groupby(["metric", "region"], sort=False):
        theirs = _by_subset(group, "method", "value")
        ours = _by_subset(means[(means["metric"] == metric) & (means["region"] == region)], "run", "mean")
        known = {
            system: run for system, run in systems.items() if system in theirs.index and run in ours.index
        }
        shared = ours.loc[list(known.values())].dropna(axis="columns").columns.intersection(theirs.columns)
        if len(known) < 2 or shared.empty:
            continue
        table = pd.DataFrame({"system": list(known), "run": list(known.values())})
        table = table.assign(metric=metric, region=region, subsets=len(shared))
        table["published"] = table["system"].map(theirs[shared].mean(axis=1))
        table["measured"] = table["run"].map(ours[shared].mean(axis=1))
        for name in ("published", "measured"):
            ascending = METRICS[str(metric)].sign < 0
            table[f"{name}_rank"] = table[name].rank(method="min", ascending=ascending)
        pieces.append(table.sort_values("published_rank", kind="stable"))
    return pd.concat(pieces, ignore_index=True)[_COLUMNS] if pieces else None


def _by_subset(rows: pd.DataFrame, name: str, value: str) -> pd.DataFrame:
    """Lay out rows of one metric and region: names down, subsets across.

    Subsets are sets: elsewhere the channels may be in another order than in the published tables.
    """
    members = rows["subset"].map(lambda subset: frozenset(subset.split("+")))
    return rows.assign(subset=members).pivot(index=name, columns="subset", values=value)
