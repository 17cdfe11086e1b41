"""A figure as it is drawn, and what it leaves on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure


@dataclass(frozen=True)
class DrawnFigure:
    """One figure in memory.

    Attributes:
        key: short name, later of its files.
        title: one line.
        caption: what is shown, of how many patients, and what the intervals are.
        figure: 180 mm wide.
    """

    key: str
    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class SavedFigure:
    """One figure on disk.

    Attributes:
        key: short name, also of its files.
        title: one line.
        caption: what is shown, of how many patients, and what the intervals are.
        png: 180 mm wide at 200 dpi.
        svg: the same as vectors.
    """

    key: str
    title: str
    caption: str
    png: Path
    svg: Path
