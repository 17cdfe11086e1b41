"""Figures of a comparison."""

from __future__ import annotations

from pathlib import Path

from nnunetv2_mstkd.evaluation.comparison.runs import Comparison
from nnunetv2_mstkd.evaluation.figures.saved import SavedFigure

__all__ = ["SavedFigure", "save_figures"]


def save_figures(comparison: Comparison, folder: Path) -> list[SavedFigure]:
    """Write every figure that can be drawn as PNG and SVG into ``folder``, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    return []
