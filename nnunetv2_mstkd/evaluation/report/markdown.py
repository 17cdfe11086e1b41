"""The comparison as text: ``comparison.md``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import pandas as pd

from nnunetv2_mstkd.evaluation.comparison.ablation import score_column
from nnunetv2_mstkd.evaluation.comparison.published import DATASETS, FULL_ROW, caveats
from nnunetv2_mstkd.evaluation.comparison.runs import Comparison
from nnunetv2_mstkd.evaluation.metrics.presentation import AVERAGE, INCOMPLETE, METRICS
from nnunetv2_mstkd.evaluation.record.record import SHORT_ID
from nnunetv2_mstkd.modalities import BRATS_MODALITIES, all_subsets, format_subset

_NONE = "n/a"
_NOTE = (
    "Run minus reference, paired per patient. In brackets: percentile bootstrap 95 % interval over patients."
    " p: Wilcoxon signed-rank; p (Holm): corrected over the rows of the table. W/T/L: patients better, equal,"
    " worse than the reference."
)


def comparison_markdown(comparison: Comparison, command: str, figures: Sequence[tuple[str, str]] = ()) -> str:
    """The whole of ``comparison.md``.

    Args:
        command: what made it.
        figures: title and relative path of each.
    """
    parts = [
        "# Comparison",
        _settings(comparison, command),
        _runs(comparison),
        "## Means",
        *(means_markdown(comparison, metric) for metric in comparison.metrics),
        _overall(comparison),
        *_differences(comparison),
        *_ablation(comparison),
        *_published(comparison),
    ]
    if figures:
        parts += ["## Figures", *(f"![{_cell(title)}]({path})" for title, path in figures)]
    return "\n\n".join(parts) + "\n"


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 2) -> str:
    """A table: the first columns, ``words`` of them, to the left, and the numbers behind to the right."""
    rules = ["---" if column < words else "---:" for column in range(len(headers))]
    lines = [headers, rules, *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def number(value: float, metric: str, *, signed: bool = False) -> str:
    """A stored score or difference as printed: Dice in %, HD95 in mm, one decimal."""
    return _fixed(value * METRICS[metric].scale, signed=signed)


def _fixed(value: float, *, signed: bool = False) -> str:
    if math.isnan(value):
        return _NONE
    text = f"{value:+.1f}" if signed else f"{value:.1f}"
    return text.replace("-0.0", "0.0").replace("+0.0", "0.0") if float(text) == 0 else text


def p_value(p: float) -> str:
    """``0.013``, ``< 0.001``."""
    if math.isnan(p):
        return _NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _head(metric: str) -> str:
    return f"{METRICS[metric].title} ({METRICS[metric].unit})"


def _settings(comparison: Comparison, command: str) -> str:
    scores, record = comparison.scores, comparison.runs[0].evaluations[0].record
    rows = [
        ("data set", record.dataset),
        ("cases", f"{scores['case'].nunique()} of {scores['patient'].nunique()} patients"),
        ("modalities", ", ".join(comparison.modalities)),
        ("subsets", str(len(comparison.subsets))),
        ("regions", ", ".join(comparison.regions)),
        ("empty masks", f"policy {comparison.policy}"),
        ("lesion-wise rules", record.lesionwise or "none"),
        ("reference", comparison.reference),
        ("bootstrap", f"{comparison.resamples} resamples, seed {comparison.seed}"),
        ("command", f"`{command}`"),
    ]
    return markdown_table(("setting", "value"), rows)


def _runs(comparison: Comparison) -> str:
    rows = []
    for run in comparison.runs:
        for evaluation in run.evaluations:
            record = evaluation.record
            cases, identity = str(len(record.cases)), str(record.model.get("id", ""))[:SHORT_ID]
            commits = ", ".join(commit or _NONE for commit in record.commits)
            rows.append((run.name, str(record.model.get("name", "")), identity, cases, commits))
    return markdown_table(("run", "model", "id", "cases", "git"), rows, words=3)


def means_markdown(comparison: Comparison, metric: str) -> str:
    """One metric laid out like the published tables: a row per region and run, a column per subset, Avg."""
    columns = (*comparison.subsets, AVERAGE)
    means = comparison.means[comparison.means["metric"] == metric]
    means = means.set_index(["region", "run", "subset"])["mean"]
    rows = [
        (region, run.name, *(number(means[(region, run.name, c)], metric) for c in columns))
        for region in comparison.regions
        for run in comparison.runs
    ]
    return f"### {_head(metric)}\n\n" + markdown_table(("region", "run", *columns), rows)


def _overall(comparison: Comparison) -> str:
    """The summaries, with intervals, and the spread between seeds where there are several."""
    means = comparison.means[comparison.means["subset"].isin([AVERAGE, INCOMPLETE])]
    several = bool((means["seeds"] > 1).any())
    rows = []
    for row in means.to_dict("records"):
        metric = row["metric"]
        mean, std, low, high, seed_std = (
            number(row[c], metric) for c in ("mean", "std", "low", "high", "seed_std")
        )
        cells = (row["run"], row["region"], _head(metric), row["subset"], mean, f"[{low}, {high}]", std)
        rows.append((*cells, str(row["n"]), *((str(row["seeds"]), seed_std) if several else ())))
    headers = ["run", "region", "metric", "subsets", "mean", "95 %", "SD of patients", "patients"]
    headers += ["seeds", "SD of seeds"] if several else []
    return "### Over all and over the incomplete subsets\n\n" + markdown_table(headers, rows, words=4)


def _differences(comparison: Comparison) -> list[str]:
    table = comparison.differences
    if table.empty:
        return []
    summary = table["subset"].isin([AVERAGE, INCOMPLETE])
    parts = [f"## Differences to {_cell(comparison.reference)}", _NOTE]
    for metric in comparison.metrics:
        rows = table[summary & (table["metric"] == metric)]
        parts += [f"### {_head(metric)}, over the subsets", _difference_rows(rows)]
    for metric in comparison.metrics:
        for run in table["run"].unique():
            rows = table[~summary & (table["metric"] == metric) & (table["run"] == run)]
            parts += [f"### {_head(metric)}, each subset: {_cell(run)}", _difference_rows(rows)]
    return parts


def _difference_rows(table: pd.DataFrame) -> str:
    rows = []
    for row in table.to_dict("records"):
        metric = row["metric"]
        difference, low, high = (number(row[c], metric, signed=True) for c in ("difference", "low", "high"))
        outcome = f"{row['wins']}/{row['ties']}/{row['losses']}"
        probabilities = (p_value(row["p"]), p_value(row["p_holm"]))
        keys = (row["run"], row["region"], row["subset"])
        rows.append((*keys, difference, f"[{low}, {high}]", *probabilities, outcome, str(row["patients"])))
    headers = ("run", "region", "subset", "difference", "95 %", "p", "p (Holm)", "W/T/L", "patients")
    return markdown_table(headers, rows, words=3)


def _ablation(comparison: Comparison) -> list[str]:
    if comparison.ablation is None:
        return []
    return [
        "## Ablation",
        f"Means over all subsets; Δ against {_cell(comparison.reference)}.",
        ablation_markdown(comparison.ablation),
    ]


def ablation_markdown(ablation: pd.DataFrame) -> str:
    """The ablation table in the published layout, the full method in bold."""
    columns = [column for column in ablation.columns if column != "method"]
    rows = []
    for position, row in enumerate(ablation.to_dict("records")):
        bold = position == len(ablation) - 1
        cells = [_ablation_cell(row[column], column, bold) for column in columns]
        rows.append((_bold(row["method"], bold), *cells))
    return markdown_table(("method", *("Δ" if c.startswith("Δ") else c for c in columns)), rows, words=1)


def _ablation_cell(value: float, column: str, bold: bool) -> str:
    if column.startswith("Δ"):
        return "-" if bold else _fixed(value, signed=True)
    return _bold(_fixed(value), bold)


def _bold(text: str, bold: bool) -> str:
    return f"**{text}**" if bold else text


def _published(comparison: Comparison) -> list[str]:
    """The published numbers in a block of their own, never beside a measured one without its mark."""
    published = comparison.published
    if published is None:
        return []
    title = DATASETS[published["dataset"].iloc[0]]
    parts = [f"## Published numbers, {title} (published, not measured here)"]
    parts.append("\n".join(f"- {text}" for text in caveats(published)))
    for metric in published["metric"].unique():
        parts += [f"### Published: {_head(metric)}, {title}", published_markdown(published, metric)]
    if comparison.ablation is not None:
        parts += [f"### Published: ablation, {title}", ablation_markdown(published_ablation(published))]
    return parts


def published_markdown(published: pd.DataFrame, metric: str) -> str:
    """One published table, as printed."""
    columns = (*(format_subset(s, BRATS_MODALITIES) for s in all_subsets(BRATS_MODALITIES)), AVERAGE)
    rows = published[(published["table"] == "comparison") & (published["metric"] == metric)]
    values = rows.set_index(["region", "method", "subset"])["value"]
    keys = rows[["region", "method"]].drop_duplicates().itertuples(index=False)
    lines = [(*key, *(_fixed(values[(*key, column)]) for column in columns)) for key in keys]
    return markdown_table(("region", "published method", *columns), lines)


def published_ablation(published: pd.DataFrame) -> pd.DataFrame:
    """The published ablation in the shape of ``ablation.ablation_table``, Δ as printed."""
    rows = []
    for method, group in published[published["table"] == "ablation"].groupby("method", sort=False):
        row: dict[str, str | float] = {"method": f"{method} (published)"}
        for cell in group.to_dict("records"):
            column = score_column(cell["region"], cell["metric"])
            row[column], row[f"Δ {column}"] = cell["value"], cell["delta"]
        rows.append((method == FULL_ROW, row))
    return pd.DataFrame([row for _, row in sorted(rows, key=lambda pair: pair[0])])


def difference_lines(comparison: Comparison) -> list[str]:
    """One line per run and region for the terminal: the Dice difference over the incomplete subsets."""
    table = comparison.differences
    summaries = [name for name in (INCOMPLETE, AVERAGE) if name in set(table["subset"])]
    if not summaries:
        return []
    lines = [f"Dice against {comparison.reference}, {summaries[0]} subsets (95 % interval, p after Holm):"]
    for row in table[(table["subset"] == summaries[0]) & (table["metric"] == "dice")].to_dict("records"):
        values = [number(row[c], "dice", signed=True) for c in ("difference", "low", "high")]
        interval, p = f"[{values[1]}, {values[2]}]", p_value(row["p_holm"])
        lines.append(f"  {row['run']} {row['region']}: {values[0]} pp {interval}, p {p}")
    return lines
