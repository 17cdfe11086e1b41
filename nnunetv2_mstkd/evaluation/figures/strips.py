"""How patients' Dice is spread under every subset, run beside run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from nnunetv2_mstkd.evaluation.comparison.runs import Comparison
from nnunetv2_mstkd.evaluation.figures.data import (
    chosen_runs,
    columns_of,
    patients_dice,
    patients_text,
    policy_text,
    styles_of,
)
from nnunetv2_mstkd.evaluation.figures.dot_matrix import draw_matrix, matrix_height, matrix_left
from nnunetv2_mstkd.evaluation.figures.saved import DrawnFigure
from nnunetv2_mstkd.evaluation.figures.style import (
    WIDTH,
    RunStyle,
    add_axes,
    add_legend,
    legend_height,
    make_room,
    new_figure,
    panel_title,
)

# A box narrower than about 1.5 mm cannot be read.
_MOST_RUNS, _MOST_BOXES = 6, 100
_MOST_DOTS = 12  # patients, of whom all are shown as dots
_LEFT, _RIGHT, _TITLE, _PANEL = 16.0, 3.0, 8.0, 36.0  # mm


def draw_strips(comparison: Comparison) -> DrawnFigure:
    """Draw a panel per region; a box per run and column, with the patients as dots where they are few."""
    runs, left_out = chosen_runs(comparison, _MOST_RUNS)
    columns = columns_of(comparison, _MOST_BOXES // len(runs))
    values = columns.mean(patients_dice(comparison, runs), axis=2)
    below, legend = matrix_height(columns, comparison.modalities), legend_height(runs)
    left = max(_LEFT, matrix_left(columns, comparison.modalities))
    count, width = len(columns.labels), WIDTH - left - _RIGHT
    figure = new_figure(legend + len(comparison.regions) * (_TITLE + _PANEL) + below + 3)
    styles = styles_of(comparison, runs)
    add_legend(figure, runs, styles, line=False)
    limits, panels = (-0.5, count - 0.5), []
    for number, region in enumerate(comparison.regions):
        top = legend + number * (_TITLE + _PANEL) + _TITLE
        axes = add_axes(figure, left, top, width, _PANEL)
        panels.append(axes)
        axes.set_title(panel_title(region, width), loc="left", fontweight="bold", pad=2)
        _draw_boxes(axes, values[:, number], width / count, styles)
        axes.set_xlim(*limits)
        axes.set_xticks([])
        axes.locator_params(axis="y", nbins=5)
        axes.set_ylabel("Dice (%)")
    top = legend + len(comparison.regions) * (_TITLE + _PANEL) + 1
    panels.append(add_axes(figure, left, top, width, below))
    draw_matrix(panels[-1], columns, comparison.modalities, limits)
    make_room(panels, left - 0.5)
    dots = "dots: the patients" if values.shape[-1] <= _MOST_DOTS else "dots: patients beyond the whiskers"
    caption = (
        f"Patients' Dice of each run under {columns.what}, one panel per region. Boxes: median and quartiles;"
        f" whiskers: the farthest patient within 1.5 interquartile ranges; {dots}."
        f" {patients_text(comparison)}. {policy_text(comparison)}{left_out}"
    )
    return DrawnFigure("strips", "Spread over patients", caption, figure)


def _draw_boxes(axes: Axes, values: np.ndarray, column_mm: float, styles: Sequence[RunStyle]) -> None:
    """Draw boxes of (runs, columns, patients); ``column_mm`` is the width of a column on paper."""
    runs, count, patients = values.shape
    few = patients <= _MOST_DOTS
    # Columns of one run are as wide as 5 mm at most: fewer columns do not make fatter boxes.
    step = min(0.84 / runs, 5 / column_mm)
    for edge in np.arange(1, count) - 0.5:
        axes.axvline(edge, color="#E5E5E5", linewidth=0.5, zorder=0)
    for number, (color, _) in enumerate(styles):
        positions = np.arange(count) + (number - (runs - 1) / 2) * step
        known = [column[~np.isnan(column)] for column in values[number]]
        axes.boxplot(
            known,
            positions=positions,
            widths=step * 0.72,
            manage_ticks=False,
            patch_artist=True,
            showcaps=False,
            showfliers=not few,
            boxprops={"facecolor": color, "alpha": 0.35, "linewidth": 0.5, "edgecolor": color},
            medianprops={"color": color, "linewidth": 1.2},
            whiskerprops={"color": color, "linewidth": 0.6},
            flierprops={"marker": ".", "markersize": 2.4, "markerfacecolor": color, "markeredgewidth": 0},
        )
        if few:
            for x, column in zip(positions, known, strict=True):
                axes.scatter(np.full(len(column), x), column, s=3, color=color, linewidths=0, zorder=3)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.4)
    axes.set_axisbelow(True)
