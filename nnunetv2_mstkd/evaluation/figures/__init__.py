"""Figures of a comparison, as PNG and SVG.

::

    save_figures(comparison, folder)   # folder/heat_map.png, folder/heat_map.svg, …
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

from matplotlib.style import context

from nnunetv2_mstkd.evaluation.comparison.runs import Comparison
from nnunetv2_mstkd.evaluation.figures.by_count import draw_by_count
from nnunetv2_mstkd.evaluation.figures.heat_map import draw_heat_map
from nnunetv2_mstkd.evaluation.figures.importance import draw_importance
from nnunetv2_mstkd.evaluation.figures.qualitative import draw_qualitative
from nnunetv2_mstkd.evaluation.figures.saved import DrawnFigure, SavedFigure
from nnunetv2_mstkd.evaluation.figures.strips import draw_strips
from nnunetv2_mstkd.evaluation.figures.style import DPI, RC, unknown_letters

logger = logging.getLogger(__name__)

__all__ = ["SavedFigure", "save_figures"]

_FIGURES: tuple[Callable[[Comparison], DrawnFigure | None], ...] = (
    draw_heat_map,
    draw_by_count,
    draw_strips,
    draw_importance,
    draw_qualitative,
)


def save_figures(comparison: Comparison, folder: Path) -> list[SavedFigure]:
    """Write every figure that can be drawn as PNG and SVG into ``folder``, which is created.

    A figure that has nothing to show (no predictions on disk, only one number of modalities) is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unknown = unknown_letters(
        [*(run.name for run in comparison.runs), *comparison.regions, *comparison.modalities]
    )
    if unknown:
        logger.warning(
            "figures show boxes for %s: no font here has them; install Noto Sans CJK, or give other names",
            unknown,
        )
    saved = []
    for draw in _FIGURES:
        # Not the user's own settings: figures look the same everywhere.
        with context(["default", dict(RC)]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # said once, above
            drawn = draw(comparison)
            if drawn is not None:
                saved.append(_save(drawn, folder))
    return saved


def _save(drawn: DrawnFigure, folder: Path) -> SavedFigure:
    png, svg = (folder / f"{drawn.key}.{ending}" for ending in ("png", "svg"))
    drawn.figure.savefig(png, dpi=DPI)
    drawn.figure.savefig(svg, metadata={"Date": None})
    return SavedFigure(drawn.key, drawn.title, drawn.caption, png, svg)
