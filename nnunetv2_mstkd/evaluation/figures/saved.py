"""What a figure leaves on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SavedFigure:
    """One figure.

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
