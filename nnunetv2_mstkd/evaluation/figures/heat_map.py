"""Mean Dice of every run under every subset, as a heat map with numbers."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from nnunetv2_mstkd.evaluation.comparison.runs import Comparison
from nnunetv2_mstkd.evaluation.figures.data import (
    Columns,
    chosen_runs,
    columns_of,
    patients_text,
    policy_text,
)
from nnunetv2_mstkd.evaluation.figures.dot_matrix import draw_matrix, matrix_height, matrix_left
from nnunetv2_mstkd.evaluation.figures.saved import DrawnFigure
from nnunetv2_mstkd.evaluation.figures.style import (
    LINE,
    SMALL,
    WIDTH,
    add_axes,
    new_figure,
    panel_title,
    text_width,
    wrapped,
)
from nnunetv2_mstkd.evaluation.metrics.presentation import AVERAGE

_MOST_RUNS, _MOST_COLUMNS = 16, 31
_RIGHT, _TOP = 13.0, 8.0  # mm
_NAME, _DECIMAL = (
    38.0,
    10.5,
)  # mm of a line of a run's name, and of a number with a decimal and room around it
_GAP = 3.0  # mm between the last subset and the average
_MAP = "cividis"


def draw_heat_map(comparison: Comparison) -> DrawnFigure:
    """Draw a panel per region, runs as rows, subsets and their average as columns."""
    runs, left_out = chosen_runs(comparison, _MOST_RUNS)
    columns = columns_of(comparison, _MOST_COLUMNS)
    names = [wrapped(run, _NAME) for run in runs]
    panel = sum(LINE * (name.count("\n") + 1) for name in names) + 1.6 * len(runs)
    left = max(3 + max(map(text_width, names)), matrix_left(columns, comparison.modalities))
    width = WIDTH - left - _RIGHT
    below = matrix_height(columns, comparison.modalities)
    figure = new_figure((panel + _TOP) * len(comparison.regions) + below + 3)
    count = len(columns.labels)
    limits = (-0.5, count + 0.5 + (count + 1) * _GAP / (width - _GAP))
    decimals = int((width - _GAP) / (count + 1) >= _DECIMAL)
    beside = width * (limits[1] - 0.5) / (limits[1] + 0.5)  # the average has a title of its own
    for number, region in enumerate(comparison.regions):
        top = _TOP + number * (panel + _TOP)
        axes = add_axes(figure, left, top, width, panel)
        values = _values(comparison, runs, region, columns)
        norm = _norm(values)
        _draw_panel(axes, values, norm, limits, decimals)
        axes.set_title(panel_title(region, beside), loc="left", fontweight="bold", pad=2)
        axes.set_yticks(range(len(runs)), names, linespacing=1.0)
        if number == 0:
            axes.text(limits[1] - 0.5, -0.6, AVERAGE, ha="center", va="bottom", fontsize=SMALL)
        scale = add_axes(figure, left + width + 1.5, top, 2.0, panel)
        bar = figure.colorbar(ScalarMappable(norm, _MAP), cax=scale)
        bar.outline.set_linewidth(0.4)
        bar.ax.locator_params(nbins=3)
        bar.ax.tick_params(pad=1)
    top = _TOP + len(comparison.regions) * (panel + _TOP) - _TOP + 1
    draw_matrix(add_axes(figure, left, top, width, below), columns, comparison.modalities, limits)
    caption = (
        f"Mean Dice (%) of each run (rows) under {columns.what}, and its average over all"
        f" {len(comparison.subsets)} subsets; one panel per region, each with its own colour scale."
        f" Bold: the highest number of a column{'' if decimals else ' before rounding'}."
        f" {patients_text(comparison)}. {policy_text(comparison)}{left_out}"
    )
    return DrawnFigure("heat_map", "Mean Dice under every subset of sequences", caption, figure)


def _values(comparison: Comparison, runs: list[str], region: str, columns: Columns) -> np.ndarray:
    """Return mean Dice in percent as the tables print it (runs, columns + 1), the average last."""
    means = comparison.means
    rows = means[(means["region"] == region) & (means["metric"] == "dice")]
    table = 100 * rows.pivot(index="run", columns="subset", values="mean").loc[runs]
    subsets = columns.mean(table[list(comparison.subsets)].to_numpy(dtype=float), axis=1)
    return np.concatenate([subsets, table[[AVERAGE]].to_numpy(dtype=float)], axis=1)


def _norm(values: np.ndarray) -> Normalize:
    """Span the colours over at least one point: equal numbers are not worth a colour."""
    if np.isnan(values).all():
        return Normalize(0, 100)
    low, high = np.nanmin(values), np.nanmax(values)
    return Normalize(low, max(high, low + 1))


def _draw_panel(
    axes: Axes, values: np.ndarray, norm: Normalize, limits: tuple[float, float], decimals: int
) -> None:
    rows, count = values.shape
    colors = colormaps[_MAP](norm(np.ma.masked_invalid(values)))
    colors[np.isnan(values)] = 1
    last = limits[1]
    for part, left, right in ((colors[:, :-1], -0.5, count - 1.5), (colors[:, -1:], last - 1, last)):
        axes.imshow(part, extent=(left, right, rows - 0.5, -0.5), aspect="auto", interpolation="nearest")
    printed = np.round(values, 1)  # as the tables print it
    positions = [*range(count - 1), last - 0.5]
    for column, x in enumerate(positions):
        known = printed[:, column][~np.isnan(printed[:, column])]
        for row, number in enumerate(printed[:, column]):
            best = rows > 1 and len(known) > 0 and number == known.max()
            axes.text(
                x,
                row,
                "-" if np.isnan(number) else f"{values[row, column]:.{decimals}f}",
                ha="center",
                va="center_baseline",
                fontsize=SMALL,
                fontweight="bold" if best else "normal",
                color="white" if colors[row, column, :3] @ (0.30, 0.59, 0.11) < 0.5 else "black",
            )
    axes.set_xlim(*limits)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
