"""The tables of what others have published."""

from __future__ import annotations

import pandas as pd

from nnunetv2_mstkd.evaluation.comparison.published import DATASETS
from nnunetv2_mstkd.evaluation.metrics.presentation import AVERAGE
from nnunetv2_mstkd.evaluation.report.cells import Column, Table, printed_cell, score_head, text_cell
from nnunetv2_mstkd.evaluation.report.markdown import published_ablation
from nnunetv2_mstkd.evaluation.report.measured import ablation_rows
from nnunetv2_mstkd.modalities import BRATS_MODALITIES, all_subsets, format_subset


def published_title(published: pd.DataFrame) -> str:
    """Name of the data set that the numbers are of."""
    return DATASETS[published["dataset"].iloc[0]]


def published_tables(published: pd.DataFrame, *, ablation: bool) -> list[Table]:
    """The published comparison per metric, as printed; and the published ablation if asked for."""
    title = published_title(published)
    tables = [_published_table(published, metric, title) for metric in published["metric"].unique()]
    if ablation:
        tables.append(
            ablation_rows(published_ablation(published), f"Published, not measured here: ablation, {title}.")
        )
    return tables


def _published_table(published: pd.DataFrame, metric: str, title: str) -> Table:
    subsets = (*(format_subset(s, BRATS_MODALITIES) for s in all_subsets(BRATS_MODALITIES)), AVERAGE)
    rows = published[(published["table"] == "comparison") & (published["metric"] == metric)]
    values = rows.set_index(["region", "method", "subset"])["value"]
    keys = rows[["region", "method"]].drop_duplicates().itertuples(index=False)
    return Table(
        f"Published, not measured here: {score_head(metric)}, {title}.",
        (Column("Region", numeric=False), Column("Published method", numeric=False), *map(Column, subsets)),
        [[*map(text_cell, key), *(printed_cell(values[(*key, s)]) for s in subsets)] for key in keys],
        wide=True,
    )
