"""From stored scores to tables: ``metrics.csv``, ``summary.json`` per subset, ``table.csv`` and ``.md``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from nnunetv2_mstkd.evaluation.metrics.policies import POLICIES
from nnunetv2_mstkd.evaluation.metrics.presentation import AVERAGE, METRICS
from nnunetv2_mstkd.evaluation.metrics.scores import RegionScore
from nnunetv2_mstkd.evaluation.record.continuing import merge_earlier_scores
from nnunetv2_mstkd.evaluation.record.record import (
    LESION_COLUMNS,
    METRIC_COLUMNS,
    METRICS_FILE,
    SHORT_ID,
    Evaluation,
    EvaluationRecord,
    write_record,
)
from nnunetv2_mstkd.evaluation.record.score_store import CaseScores, ScoreStore
from nnunetv2_mstkd.evaluation.record.summary import write_summaries
from nnunetv2_mstkd.files import atomic_path, locked_folder


class Collected(NamedTuple):
    """What was collected, and how many cases under subsets stand how.

    Attributes:
        evaluation: the folder and its record.
        scored: have scores.
        impossible: can have none: their cases lack modalities.
        missing: are still to be scored.
    """

    evaluation: Evaluation
    scored: int
    impossible: int
    missing: int


def collect(record: EvaluationRecord, folder: Path) -> Collected:
    """Write the record and every table of what is scored so far.

    One run at a time: of several that share the work, the last to come has read every score.
    """
    with locked_folder(folder):
        return _collect(merge_earlier_scores(record, folder), folder)


def _collect(record: EvaluationRecord, folder: Path) -> Collected:
    store = ScoreStore(folder)
    stored = {case: store.read(case) for case in record.cases}
    record = _without_what_cases_lack(record, stored)
    table = metrics_table(record, stored)
    with atomic_path(folder / METRICS_FILE) as temporary:
        table.to_csv(temporary, index=False)
    write_summaries(record, stored, folder)
    write_tables(record, table, folder)
    write_record(record, folder)
    wanted = [(stored[case], subset) for case in record.cases for subset in record.subsets_of(case)]
    scored = sum(subset in scores.subsets for scores, subset in wanted)
    missing = len(missing_scores(record, stored))
    return Collected(Evaluation(folder, record), scored, len(wanted) - scored - missing, missing)


def missing_scores(record: EvaluationRecord, stored: Mapping[str, CaseScores]) -> list[tuple[str, str]]:
    """List the cases and subsets that are still to be scored."""
    return [
        (case, subset)
        for case in record.cases
        for subset in record.subsets_of(case)
        if not stored[case].settled(subset)
    ]


def _without_what_cases_lack(record: EvaluationRecord, stored: Mapping[str, CaseScores]) -> EvaluationRecord:
    """Return the record, listing of each case only images that show something."""
    cases = {
        name: replace(case, images={m: p for m, p in case.images.items() if m not in stored[name].lacking})
        for name, case in record.cases.items()
    }
    return replace(record, cases=cases)


def metrics_table(record: EvaluationRecord, stored: Mapping[str, CaseScores]) -> pd.DataFrame:
    """List one row per case, subset and region; see ``record.METRIC_COLUMNS``."""
    rows = [
        _row(record, case, subset, region, score)
        for case, scores in stored.items()
        for subset in record.subsets_of(case)
        if subset in scores.subsets
        for region, score in scores.subsets[subset].regions.items()
    ]
    columns = [*METRIC_COLUMNS, *(LESION_COLUMNS if record.lesionwise else ())]
    return pd.DataFrame(rows, columns=columns)


def _row(record: EvaluationRecord, case: str, subset: str, region: str, score: RegionScore) -> dict[str, Any]:
    policy = POLICIES[record.policy]
    row = {
        "case": case,
        "patient": record.cases[case].patient,
        "subset": subset,
        "region": region,
        "dice": policy.dice(score),
        "hd95": policy.hd95(score),
        "volume_reference": score.volume_reference,
        "volume_prediction": score.volume_prediction,
        "tp": score.tp,
        "fp": score.fp,
        "fn": score.fn,
        "policy": record.policy,
        "model": f"{record.model['name']}@{str(record.model['id'])[:SHORT_ID]}",
    }
    if record.lesionwise and score.lesions is not None:
        row |= {
            "lesion_dice": score.lesions.dice,
            "lesion_hd95": score.lesions.hd95,
            "lesions": score.lesions.lesions,
            "missed_lesions": score.lesions.missed,
            "false_lesions": score.lesions.false,
        }
    return row


def subset_means(table: pd.DataFrame, record: EvaluationRecord, metric: str) -> pd.DataFrame:
    """Average over cases: rows are regions, columns subsets and their average; nan where undefined.

    The average is the mean of the columns, as in the published tables, so that each subset counts alike.
    """
    means = table.pivot_table(index="region", columns="subset", values=metric, aggfunc="mean", dropna=False)
    means = means.reindex(index=list(record.regions), columns=list(record.subsets))
    means[AVERAGE] = means.mean(axis=1)
    return means


def write_tables(record: EvaluationRecord, table: pd.DataFrame, folder: Path) -> None:
    """Write ``table.csv`` (full precision) and ``table.md``."""
    metrics = [name for name in METRICS if name in table]
    means = {name: subset_means(table, record, name) for name in metrics}
    stacked = pd.concat(means, names=["metric"])
    with atomic_path(folder / "table.csv") as temporary:
        stacked.to_csv(temporary)
    with atomic_path(folder / "table.md") as temporary:
        temporary.write_text(_markdown(record, table, means), encoding="utf-8")


def _markdown(record: EvaluationRecord, table: pd.DataFrame, means: dict[str, pd.DataFrame]) -> str:
    cases, patients = table["case"].nunique(), table["patient"].nunique()
    lines = [
        f"# {record.model['name']}",
        "",
        f"{record.dataset}: mean over {cases} case(s) of {patients} patient(s)."
        f" Empty masks: policy {record.policy}. {AVERAGE} is the mean of the columns.",
        "",
        f"| metric | region | {' | '.join((*record.subsets, AVERAGE))} |",
        "|---|---|" + "---:|" * (len(record.subsets) + 1),
    ]
    for metric, values in means.items():
        shown = METRICS[metric]
        for region, row in values.iterrows():
            cells = ["" if pd.isna(v) else f"{shown.scale * v:.1f}" for v in row]
            lines.append(f"| {shown.title} ({shown.unit}) | {region} | {' | '.join(cells)} |")
    counts = table.groupby("subset")["case"].nunique()
    fewer = [f"{s} {counts.get(s, 0)}" for s in record.subsets if counts.get(s, 0) < len(record.cases)]
    if fewer:
        lines += ["", f"Of {len(record.cases)} cases, those scored under: {', '.join(fewer)}."]
    return "\n".join(lines) + "\n"
