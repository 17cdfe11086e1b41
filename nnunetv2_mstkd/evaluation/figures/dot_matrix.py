"""Which modalities a column of a figure has: filled and empty circles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from nnunetv2_mstkd.evaluation.figures.data import Columns
from nnunetv2_mstkd.evaluation.figures.style import SMALL, short_names, text_width

ROW = 4.5  # mm per modality
_COUNT_HEIGHT = 11.0  # mm
_LETTERS = 12  # of a modality's name


def matrix_height(columns: Columns, modalities: Sequence[str]) -> float:
    """Return the millimetres that :func:`draw_matrix` needs."""
    return ROW * len(modalities) if columns.modalities is not None else _COUNT_HEIGHT


def matrix_left(columns: Columns, modalities: Sequence[str]) -> float:
    """Return the millimetres that the names need to the left of the circles."""
    names = short_names(modalities, _LETTERS) if columns.modalities is not None else ()
    return 3 + max(map(text_width, names), default=0)


def draw_matrix(axes: Axes, columns: Columns, modalities: Sequence[str], limits: tuple[float, float]) -> None:
    """Draw circles under the columns 0, 1, …; or labels, where a column is a number of modalities.

    Args:
        axes: as wide as the panel above, ``matrix_height`` mm high.
        limits: of x, those of the panel above.
    """
    axes.set_xlim(*limits)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    if columns.modalities is None:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_ylim(1, 0)
        for x, label in enumerate(columns.labels):
            axes.text(x, 0.1, label, ha="center", va="top", fontsize=SMALL)
        axes.text((len(columns.labels) - 1) / 2, 0.55, "number of available sequences", ha="center", va="top")
        return
    available = np.array([[m in present for present in columns.modalities] for m in modalities])
    rows, positions = np.meshgrid(*map(np.arange, available.shape), indexing="ij")
    for filled in (True, False):
        where = available == filled
        face = "#333333" if filled else "white"
        axes.scatter(positions[where], rows[where], s=16, c=face, edgecolors="#333333", linewidths=0.7)
    axes.set_ylim(len(modalities) - 0.5, -0.5)
    axes.set_yticks(range(len(modalities)), short_names(modalities, _LETTERS), fontsize=SMALL)
    axes.set_xticks([])
