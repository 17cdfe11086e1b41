"""The ablation table, laid out as the published ones: one row per method, a score and its Δ per region."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from nnunetv2_mstkd.evaluation.metrics.presentation import AVERAGE, METRICS

# nnUNetTrainerMSTKD_woGSME and the like: what a trainer's name says it does without.
_WITHOUT = re.compile(r".*_wo([A-Z]\w*)")


def ablation_table(
    means: pd.DataFrame, full: str, regions: Sequence[str], metrics: Sequence[str]
) -> pd.DataFrame:
    """Tabulate means over all subsets, and their Δ against the full method, which stands in the last row.

    Args:
        means: as in :class:`Comparison`.
        full: name of the run that lacks nothing.
        regions: in column order.
        metrics: in column order; all regions of one before those of the next.

    Returns:
        ``method``, and per metric and region a column like ``WT Dice (%)`` and one like ``Δ WT Dice (%)``
        (nan in the last row), in the units that are printed.
    """
    averages = means[means["subset"] == AVERAGE].set_index(["run", "metric", "region"])["mean"]
    names = [name for name in dict.fromkeys(means["run"]) if name != full]
    short = [without_name(name) for name in names]
    labels = dict(zip(names, short if len(set(short)) == len(short) else names, strict=True))
    rows = []
    for name in (*names, full):
        row: dict[str, str | float] = {"method": labels.get(name, name)}
        for metric in metrics:
            for region in regions:
                scale, column = METRICS[metric].scale, score_column(region, metric)
                score, best = (scale * averages[(run, metric, region)] for run in (name, full))
                row[column] = score
                row[f"Δ {column}"] = score - best if name != full else float("nan")
        rows.append(row)
    return pd.DataFrame(rows)


def score_column(region: str, metric: str) -> str:
    """Name a column: ``WT Dice (%)``."""
    return f"{region} {METRICS[metric].title} ({METRICS[metric].unit})"


def without_name(name: str) -> str:
    """Shorten ``MSTKD_woGSME`` to ``w/o GSME``; other names stay."""
    match = _WITHOUT.fullmatch(name)
    return f"w/o {match.group(1)}" if match else name
