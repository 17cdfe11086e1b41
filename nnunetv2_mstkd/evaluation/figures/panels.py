"""Panels side by side, one per region, with points and intervals per run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunetv2_mstkd.evaluation.comparison.runs import Comparison
from nnunetv2_mstkd.evaluation.figures.data import styles_of
from nnunetv2_mstkd.evaluation.figures.style import (
    TITLE_LINE,
    WIDTH,
    RunStyle,
    add_axes,
    add_legend,
    legend_height,
    make_room,
    new_figure,
    panel_title,
)

_PER_ROW = 3
_LEFT, _BETWEEN, _RIGHT = 16.0, 17.0, 3.0  # mm
_TITLE, _HEIGHT, _BELOW = 8.0, 52.0, 14.0  # mm
_TITLE_LINES = 3


def region_panels(
    comparison: Comparison, runs: Sequence[str], *, more_below: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """Make a figure with the runs' legend on top and titled axes per region, three in a row.

    Args:
        more_below: mm under each panel that its names need beside those of one line.
    """
    regions = list(comparison.regions)
    per_row = min(_PER_ROW, len(regions))
    rows = -(-len(regions) // per_row)
    legend = legend_height(runs)
    width = (WIDTH - _LEFT - _RIGHT - _BETWEEN * (per_row - 1)) / per_row
    titles = [panel_title(region, width + _RIGHT - 1, _TITLE_LINES) for region in regions]
    above = _TITLE + TITLE_LINE * max(title.count("\n") for title in titles)
    each = above + _HEIGHT + _BELOW + more_below
    figure = new_figure(legend + rows * each)
    add_legend(figure, runs, styles_of(comparison, runs), line=True)
    panels = []
    for number, title in enumerate(titles):
        row, column = divmod(number, per_row)
        top = legend + row * each + above
        axes = add_axes(figure, _LEFT + column * (width + _BETWEEN), top, width, _HEIGHT)
        axes.set_title(title, loc="left", fontweight="bold", pad=3)
        axes.grid(axis="y", color="#DDDDDD", linewidth=0.4)
        axes.set_axisbelow(True)
        panels.append(axes)
    return figure, panels


def make_room_beside(panels: Sequence[Axes]) -> None:
    """Make room for what stands to the left of each panel, where it needs more than it has."""
    for number, axes in enumerate(panels):
        make_room([axes], _BETWEEN - 1 if number % _PER_ROW else _LEFT - 0.5)


def draw_intervals(
    axes: Axes,
    x: np.ndarray,
    means: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    styles: Sequence[RunStyle],
    *,
    line: bool,
) -> None:
    """Draw points with intervals, runs moved apart so that none hides another.

    Args:
        x: (positions,).
        means, low, high: (runs, positions); nan ends draw no interval.
        styles: one per run.
        line: join the points of a run; they lie closer then.
    """
    runs = len(means)
    step = min(0.4 if line else 0.75, 0.12 * runs) / runs
    for number, (color, marker) in enumerate(styles):
        moved = x + (number - (runs - 1) / 2) * step
        errors = np.nan_to_num(np.stack([means[number] - low[number], high[number] - means[number]]))
        axes.errorbar(
            moved,
            means[number],
            # Rounding can leave an end a hair on the wrong side.
            yerr=np.maximum(errors, 0),
            color=color,
            marker=marker,
            markersize=4.5,
            linestyle="-" if line else "none",
            linewidth=1.2,
            elinewidth=0.9,
            capsize=1.6,
            capthick=0.8,
        )
    axes.set_xlim(x.min() - 0.5, x.max() + 0.5)
