"""Dice against the number of available modalities."""

from __future__ import annotations

import numpy as np

from nnunetv2_mstkd.evaluation.comparison.runs import Comparison
from nnunetv2_mstkd.evaluation.figures.data import (
    chosen_runs,
    columns_by_count,
    interval_text,
    mean_and_interval,
    patients_dice,
    patients_text,
    policy_text,
    styles_of,
)
from nnunetv2_mstkd.evaluation.figures.panels import draw_intervals, make_room_beside, region_panels
from nnunetv2_mstkd.evaluation.figures.saved import DrawnFigure

_MOST_RUNS = 8


def draw_by_count(comparison: Comparison) -> DrawnFigure | None:
    """Draw a panel per region, a line per run; None where only one number of modalities was evaluated."""
    columns = columns_by_count(comparison)
    if len(columns.labels) < 2:
        return None
    runs, left_out = chosen_runs(comparison, _MOST_RUNS)
    values = columns.mean(patients_dice(comparison, runs), axis=2)
    means, low, high = mean_and_interval(values, comparison)
    counts = np.array([int(label) for label in columns.labels])
    styles = styles_of(comparison, runs)
    figure, panels = region_panels(comparison, runs)
    for region, axes in enumerate(panels):
        draw_intervals(axes, counts, means[:, region], low[:, region], high[:, region], styles, line=True)
        axes.set_xticks(counts)
        axes.set_xlabel("available sequences")
        axes.set_ylabel("Dice (%)")
    make_room_beside(panels)
    caption = (
        "Mean Dice against the number of available sequences; a patient's Dice is first averaged over the"
        f" evaluated subsets of that number. {patients_text(comparison)}. {interval_text(comparison)}"
        f" {policy_text(comparison)}{left_out}"
    )
    return DrawnFigure("by_count", "Dice by the number of available sequences", caption, figure)
