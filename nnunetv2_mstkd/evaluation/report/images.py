"""Images inside of the page."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnunetv2_mstkd.evaluation.figures.saved import SavedFigure

# Vectors of more than this are drawn more slowly than pixels of the same figure.
_LARGEST_SVG = 600_000  # bytes


@dataclass(frozen=True)
class InlinedFigure:
    """A figure as the page holds it: ``source`` is a data: address."""

    key: str
    title: str
    caption: str
    source: str


def inline(figure: SavedFigure) -> InlinedFigure:
    """The figure as vectors where they are small, else as pixels.

    A figure that shows images holds pixels either way; its PNG is the smaller one.
    """
    svg = figure.svg.read_bytes()
    pixels = b"<image" in svg or len(svg) > _LARGEST_SVG
    source = _address("image/png", figure.png.read_bytes()) if pixels else _address("image/svg+xml", svg)
    return InlinedFigure(figure.key, figure.title, figure.caption, source)


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
