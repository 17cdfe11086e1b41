"""The report as one list of sections: built once, printed as text and as a page."""

from __future__ import annotations

import math

import pandas as pd

from nnunetv2_mstkd.evaluation.comparison.ablation import score_column
from nnunetv2_mstkd.evaluation.comparison.published import DATASETS, FULL_ROW, SOURCE, caveats
from nnunetv2_mstkd.evaluation.comparison.ranks import systems_of
from nnunetv2_mstkd.evaluation.comparison.runs import Comparison
from nnunetv2_mstkd.evaluation.metrics.presentation import AVERAGE, INCOMPLETE
from nnunetv2_mstkd.evaluation.report.cells import (
    NONE,
    Cell,
    Column,
    Section,
    Table,
    count_cell,
    printed_cell,
    score_cell,
    score_head,
    text_cell,
)
from nnunetv2_mstkd.evaluation.report.described import overview, settings_table
from nnunetv2_mstkd.evaluation.report.measured import (
    ablation_rows,
    difference_details,
    difference_overviews,
    means,
    spreads,
    summaries,
)
from nnunetv2_mstkd.modalities import BRATS_MODALITIES, all_subsets, format_subset

_PUBLISHED = "Published, not measured here"
_RANKS = (
    "Data, training budget and pipeline differ: the published systems were trained and scored by other code"
    " on other patients. A rank that differs is no error of either side.",
    "Ranks are among the systems that were measured here. Published and measured means are over the same"
    " subsets: those published ones with a modality missing that every one of these systems has a score under"
    " here. Of several runs of a system the first counts.",
)
_NO_RANKS = (
    "There are none: under no published subset with a modality missing has every published system among the"
    " runs a score here."
)


def sections(comparison: Comparison) -> list[Section]:
    """Return everything that a comparison prints, in order; parts that were not asked for are left out."""
    reference, paired = comparison.reference, not comparison.differences.empty
    found = [
        Section("summary", "Summary", _reading(reference) if paired else (), (), summaries(comparison)),
        Section("means", "Means", (), (), [*means(comparison), *spreads(comparison)]),
    ]
    if paired:
        where = "The summary above says whether a run is better. These tables say where."
        tables = [*difference_overviews(comparison), *difference_details(comparison)]
        found.append(Section("differences", f"Differences to {reference}", (where,), (), tables))
    if comparison.ablation is not None:
        table = ablation_rows(comparison.ablation, f"Means over all subsets; Δ against {reference}")
        found.append(Section("ablation", "Ablation", (), (), [table]))
    if comparison.published is not None:
        found.append(_published(comparison.published, ablation=comparison.ablation is not None))
    if comparison.ranks is not None:
        found.append(
            Section("ranks", "Published and measured ranks", _RANKS, (), _rank_tables(comparison.ranks))
        )
    elif comparison.published is not None and len(systems_of(comparison.runs)) > 1:
        found.append(Section("ranks", "Published and measured ranks", (_NO_RANKS,)))
    settings = settings_table(comparison)
    described = [overview(comparison), *([settings] if settings else [])]
    return [
        *found,
        Section("methods", "How the numbers are made", _methods(comparison)),
        Section("compared", "What was compared", (), (), described),
    ]


def _reading(reference: str) -> tuple[str, ...]:
    return (
        f"Differences are run minus {reference}, paired per patient. For Dice plus is better, for HD95 minus"
        " is. In brackets: 95 % interval over patients.",
    )


def _methods(comparison: Comparison) -> tuple[str, ...]:
    has_incomplete = INCOMPLETE in set(comparison.means["subset"])
    incomplete = f", “{INCOMPLETE}” of those in which a modality is missing" if has_incomplete else ""
    return (
        "The patient is the unit: several cases of a patient are averaged, and so are seeds of a run."
        f" Intervals are percentile bootstraps over patients ({comparison.resamples} resamples, seed"
        f" {comparison.seed}, the same draws for every number). p is the two-sided Wilcoxon signed-rank test"
        " over patients; p (Holm) is corrected over the rows of its table: per metric, the summary with all"
        " regions and runs is one, and the single subsets of each run are another. Better, equal and worse"
        " count patients. Intervals and p-values describe these trained models; a new training may differ by"
        " more.",
        f"“{AVERAGE}” is the mean of all {len(comparison.subsets)} subsets{incomplete}. A pair with"
        f" an undefined value is left out, and “{NONE}” stands where nothing is left.",
    )


def _published(published: pd.DataFrame, *, ablation: bool) -> Section:
    """Return the published numbers in a section of their own; the ablation only beside a measured one."""
    title = DATASETS[published["dataset"].iloc[0]]
    tables = [_published_table(published, metric, title) for metric in published["metric"].unique()]
    if ablation:
        rows = published_ablation(published)
        tables.append(ablation_rows(rows, f"{_PUBLISHED}: ablation, {title}"))
    return Section(
        "published",
        f"Published numbers, {title}",
        (f"{_PUBLISHED}: from the MST-KDNet project page, {SOURCE}. Read this before you quote them:",),
        caveats(published),
        tables,
    )


def _rank_tables(ranks: pd.DataFrame) -> list[Table]:
    """Make per metric a table of published and measured ranks."""
    columns = [Column("Region", numeric=False), Column("System", numeric=False), Column("Run", numeric=False)]
    columns.append(Column("Subsets"))
    columns += [Column(head, group=g) for g in ("Published", "Measured here") for head in ("Mean", "Rank")]
    tables = []
    for metric in ranks["metric"].unique():
        rows = [
            [
                *(text_cell(row[name]) for name in ("region", "system", "run")),
                count_cell(row["subsets"]),
                printed_cell(row["published"]),
                _rank_cell(row["published_rank"]),
                score_cell(row["measured"], metric),
                _rank_cell(row["measured_rank"]),
            ]
            for row in ranks[ranks["metric"] == metric].to_dict("records")
        ]
        tables.append(Table(f"{score_head(metric)}, incomplete subsets", columns, rows, heads=3))
    return tables


def _rank_cell(rank: float) -> Cell:
    return Cell(NONE) if math.isnan(rank) else count_cell(rank)


def _published_table(published: pd.DataFrame, metric: str, title: str) -> Table:
    subsets = (*(format_subset(s, BRATS_MODALITIES) for s in all_subsets(BRATS_MODALITIES)), AVERAGE)
    rows = published[(published["table"] == "comparison") & (published["metric"] == metric)]
    values = rows.set_index(["region", "method", "subset"])["value"]
    keys = rows[["region", "method"]].drop_duplicates().itertuples(index=False)
    return Table(
        f"{_PUBLISHED}: {score_head(metric)}, {title}",
        (Column("Region", numeric=False), Column("Published method", numeric=False), *map(Column, subsets)),
        [[*map(text_cell, key), *(printed_cell(values[(*key, s)]) for s in subsets)] for key in keys],
        wide=True,
    )


def published_ablation(published: pd.DataFrame) -> pd.DataFrame:
    """Return the published ablation in the shape of ``ablation.ablation_table``, Δ as printed."""
    rows = []
    for method, group in published[published["table"] == "ablation"].groupby("method", sort=False):
        row: dict[str, str | float] = {"method": f"{method} (published)"}
        for cell in group.to_dict("records"):
            column = score_column(cell["region"], cell["metric"])
            row[column], row[f"Δ {column}"] = cell["value"], cell["delta"]
        rows.append((method == FULL_ROW, row))
    return pd.DataFrame([row for _, row in sorted(rows, key=lambda pair: pair[0])])
