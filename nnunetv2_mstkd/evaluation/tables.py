"""The table of one model, laid out like the published ones: a column per subset, a row per region."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from nnunetv2_mstkd.evaluation.presentation import AVERAGE, METRICS
from nnunetv2_mstkd.evaluation.results import EvaluationRecord
from nnunetv2_mstkd.files import atomic_path


def subset_means(table: pd.DataFrame, record: EvaluationRecord, metric: str) -> pd.DataFrame:
    """Mean over cases: rows are regions, columns subsets and their average; nan where nothing is defined.

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
