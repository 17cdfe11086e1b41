"""The tables of what was measured: means, spreads, differences, ablation."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from nnunetv2_mstkd.evaluation.comparison.runs import Comparison
from nnunetv2_mstkd.evaluation.metrics.presentation import AVERAGE, INCOMPLETE, METRICS
from nnunetv2_mstkd.evaluation.report.cells import (
    NONE,
    Cell,
    Column,
    Table,
    count_cell,
    interval_cell,
    interval_text,
    p_cell,
    printed_cell,
    score_cell,
    score_head,
    text_cell,
)

SIGNIFICANT = 0.05
_TITLES = {AVERAGE: "All subsets (Avg.)", INCOMPLETE: "Incomplete subsets"}
_ROW_HEADS = (Column("Region", numeric=False), Column("Run", numeric=False))
_BOLD = f"Bold: p (Holm) < {SIGNIFICANT}."
_Key = tuple[str, str, str]


def _keyed(table: pd.DataFrame, metric: str) -> dict[_Key, dict]:
    """Map (region, run, subset) to row."""
    rows = table[table["metric"] == metric].to_dict("records")
    return {(row["region"], row["run"], row["subset"]): row for row in rows}


def _marked(comparison: Comparison, run: str) -> Cell:
    """Print the name of a run; the reference says that it is one, where anything is referred to it."""
    return Cell(run, "(reference)" if run == comparison.reference and len(comparison.runs) > 1 else "")


def summaries(comparison: Comparison) -> list[Table]:
    """Make per metric a table of mean and difference over all and over the incomplete subsets."""
    return [_summary(comparison, metric) for metric in comparison.metrics]


def _summary(comparison: Comparison, metric: str) -> Table:
    means, differences = _keyed(comparison.means, metric), _keyed(comparison.differences, metric)
    present = set(comparison.means["subset"])
    subsets = [subset for subset in (AVERAGE, INCOMPLETE) if subset in present]
    paired = bool(differences)
    columns = list(_ROW_HEADS)
    for subset in subsets:
        titles = ("Mean", "Difference", "p (Holm)") if paired else ("Mean",)
        columns += [Column(title, group=_TITLES[subset]) for title in titles]
    rows = []
    for region in comparison.regions:
        for run in comparison.runs:
            cells = [text_cell(region), _marked(comparison, run.name)]
            for subset in subsets:
                key = (region, run.name, subset)
                cells += _summary_cells(means[key], differences.get(key), metric, paired)
            rows.append(cells)
    title = f"{score_head(metric)}: mean over patients and 95 % interval"
    return Table(title + ("; difference to the reference" if paired else ""), columns, rows)


def _summary_cells(mean: Mapping, difference: Mapping | None, metric: str, paired: bool) -> list[Cell]:
    cells = [interval_cell(mean["mean"], mean["low"], mean["high"], metric)]
    if difference is not None:
        value, low, high = (difference[name] for name in ("difference", "low", "high"))
        cells += [interval_cell(value, low, high, metric, signed=True), p_cell(difference["p_holm"])]
    elif paired:
        cells += [Cell(""), Cell("")]
    return cells


def spreads(comparison: Comparison) -> list[Table]:
    """Make per metric a table of the spread between patients, and between seeds where there are several."""
    several = bool((comparison.means["seeds"] > 1).any())
    columns = [*_ROW_HEADS, Column("Subsets", numeric=False), Column("Mean"), Column("SD of patients")]
    columns += [Column("Patients")]
    columns += [Column("Seeds"), Column("SD of seeds")] if several else []
    tables = []
    for metric in comparison.metrics:
        rows = []
        means = comparison.means
        chosen = means[(means["metric"] == metric) & means["subset"].isin(list(_TITLES))]
        for row in chosen.to_dict("records"):
            cells = [text_cell(row["region"]), text_cell(row["run"]), text_cell(row["subset"])]
            cells += [score_cell(row[name], metric) for name in ("mean", "std")]
            cells.append(count_cell(row["n"]))
            cells += [count_cell(row["seeds"]), score_cell(row["seed_std"], metric)] if several else []
            rows.append(cells)
        title = f"{score_head(metric)}: spread of what was averaged"
        tables.append(Table(title, columns, rows, heads=3, folded=True, under="Spread"))
    return tables


def means(comparison: Comparison) -> list[Table]:
    """Make per metric a table as the published ones: a row per region and run, a column per subset."""
    subsets = (*comparison.subsets, AVERAGE)
    columns = (*_ROW_HEADS, *map(Column, subsets))
    tables = []
    for metric in comparison.metrics:
        rows, keyed = [], _keyed(comparison.means, metric)
        for region in comparison.regions:
            best = {
                s: _best([keyed[(region, r.name, s)]["mean"] for r in comparison.runs], metric)
                for s in subsets
            }
            for run in comparison.runs:
                values = [(keyed[(region, run.name, s)]["mean"], best[s]) for s in subsets]
                scores = [score_cell(value, metric, strong=value == top) for value, top in values]
                rows.append([text_cell(region), _marked(comparison, run.name), *scores])
        note = "Bold: best of the runs." if len(comparison.runs) > 1 else ""
        tables.append(Table(f"{score_head(metric)}, mean over patients", columns, rows, note, wide=True))
    return tables


def _best(values: list[float], metric: str) -> float | None:
    """Return the best of several runs; of one there is none."""
    known = [value for value in values if not math.isnan(value)]
    if len(values) < 2 or not known:
        return None
    return max(known, key=lambda value: METRICS[metric].sign * value)


def difference_overviews(comparison: Comparison) -> list[Table]:
    """Make per metric a table laid out as the means: differences of every run to the reference."""
    columns = (*_ROW_HEADS, *map(Column, comparison.subsets))
    others = [run.name for run in comparison.runs if run.name != comparison.reference]
    tables = []
    for metric in comparison.metrics:
        keyed, rows = _keyed(comparison.differences, metric), []
        for region in comparison.regions:
            for run in others:
                found = [keyed[(region, run, subset)] for subset in comparison.subsets]
                cells = [
                    score_cell(row["difference"], metric, signed=True, strong=row["p_holm"] < SIGNIFICANT)
                    for row in found
                ]
                rows.append([text_cell(region), text_cell(run), *cells])
        title = f"{score_head(metric)}, run minus {comparison.reference}"
        tables.append(Table(title, columns, rows, _BOLD, wide=True))
    return tables


def difference_details(comparison: Comparison) -> list[Table]:
    """Make tables of all statistics: per metric one of the summaries, and one of the subsets per run.

    Each table is one family of Holm's correction; see ``differences.holm_family``.
    """
    table, reference = comparison.differences, comparison.reference
    summary = table["subset"].isin(list(_TITLES))
    tables = []
    for metric in comparison.metrics:
        rows = table[summary & (table["metric"] == metric)]
        title = f"{score_head(metric)}: each run minus {reference}, over the subsets"
        tables.append(_difference_table(rows, {"Region": "region", "Run": "run", "Subsets": "subset"}, title))
        for run in table["run"].unique():
            rows = table[~summary & (table["metric"] == metric) & (table["run"] == run)]
            title = f"{score_head(metric)}: {run} minus {reference}, each subset"
            tables.append(_difference_table(rows, {"Region": "region", "Subset": "subset"}, title))
    return tables


def _difference_table(rows: pd.DataFrame, heads: Mapping[str, str], title: str) -> Table:
    """Return a row per difference; ``heads`` are the titles of the row's heads and their columns."""
    titles = ("Difference", "95 %", "p", "p (Holm)", "Better", "Equal", "Worse", "Patients")
    columns = [*(Column(head, numeric=False) for head in heads), *map(Column, titles)]
    cells = [
        [*(text_cell(row[name]) for name in heads.values()), *_difference_cells(row)]
        for row in rows.to_dict("records")
    ]
    under = "With interval and p"
    return Table(title, columns, cells, _BOLD, heads=len(heads), folded=True, under=under)


def _difference_cells(row: Mapping) -> list[Cell]:
    metric = row["metric"]
    interval = interval_text(row["low"], row["high"], metric, signed=True)
    return [
        score_cell(row["difference"], metric, signed=True, strong=row["p_holm"] < SIGNIFICANT),
        Cell(interval or NONE, value=None if math.isnan(row["low"]) else float(row["low"])),
        p_cell(row["p"]),
        p_cell(row["p_holm"]),
        *(count_cell(row[name]) for name in ("wins", "ties", "losses", "patients")),
    ]


def ablation_rows(ablation: pd.DataFrame, title: str) -> Table:
    """Make a table of ``ablation.ablation_table``'s shape; the full method, in its last row, in bold."""
    names = [name for name in ablation.columns if name != "method"]
    columns = [Column("Method", numeric=False)]
    columns += [Column("Δ" if name.startswith("Δ") else name) for name in names]
    rows = []
    for position, row in enumerate(ablation.to_dict("records")):
        full = position == len(ablation) - 1
        cells = [printed_cell(row[n], signed=n.startswith("Δ"), strong=full) for n in names]
        rows.append([Cell(str(row["method"]), strong=full), *cells])
    return Table(title, columns, rows, heads=1)
