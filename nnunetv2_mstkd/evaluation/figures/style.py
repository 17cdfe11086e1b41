"""How all figures look: size, fonts, colours, and placing in millimetres.

A figure is as wide as two columns of a journal and can be read in one of them: its smallest letters are 5 pt
there.

Colours: Okabe and Ito, Color Universal Design, 2008 (told apart with every kind of colour blindness), with a
darker grey.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

WIDTH = 180.0  # mm, two columns of a journal
COLUMN = 88.0  # mm, one of them
DPI = 200
SMALL = 10.3  # pt, the smallest font: 5 pt where a figure is scaled down to one column
LETTER = 2.1  # mm that a letter of that size takes, on average
LINE = 4.3  # mm that a line of it takes
_MM_PER_INCH = 25.4

# Yellow is left out: it is hard to see as a line on white.
RUN_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

RC: Mapping[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same on every machine
    "font.size": SMALL,
    "axes.titlesize": 11.5,
    "axes.labelsize": SMALL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "lines.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    # Ids in the SVG are random without it, and the file differs every time.
    "svg.hashsalt": "nnunetv2-mstkd",
    "text.parse_math": False,  # names are the user's: a dollar sign is one
}


def new_figure(height: float) -> Figure:
    """Make a white figure, 180 mm wide and ``height`` mm high, that pyplot knows nothing about."""
    figure = Figure(figsize=(WIDTH / _MM_PER_INCH, height / _MM_PER_INCH), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes, placed in mm from the left and from the top."""
    total = figure.get_figheight() * _MM_PER_INCH
    return figure.add_axes((left / WIDTH, 1 - (top + height) / total, width / WIDTH, height / total))


class RunStyle(NamedTuple):
    """How a run is drawn."""

    color: str
    marker: str


def run_style(number: int) -> RunStyle:
    """Return the style of the run with this number; they repeat after eight."""
    return RunStyle(RUN_COLORS[number % len(RUN_COLORS)], MARKERS[number % len(MARKERS)])


_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


def wrapped(text: str, width: int, lines: int = 2) -> str:
    """Wrap text into at most ``lines`` lines of ``width`` characters; of a longer one the middle is left out.

    Names of runs often differ at their end only, so that the end must stay. A word that is too long is broken
    where a capital begins, as in names of classes.
    """
    words = (_HUMP.sub(" ", word) if len(word) > width else word for word in text.split(" "))
    for candidate in _shortened(" ".join(words)):
        parts = textwrap.wrap(candidate, width, break_on_hyphens=False)
        if len(parts) <= lines:
            break
    return "\n".join(parts)


def _shortened(text: str) -> Iterator[str]:
    """Yield the text, then with more and more words left out in the middle, then characters."""
    yield text
    words = text.split()
    for kept in range(len(words) - 1, 1, -1):
        head = (kept + 1) // 2
        yield " ".join([*words[:head], "…", *words[head - kept :]])
    for kept in range(len(text) - 1, 1, -1):
        head = kept // 2
        yield f"{text[:head].rstrip()} … {text[head - kept :].lstrip()}"


def short_names(names: Sequence[str], width: int) -> list[str]:
    """Shorten names of modalities to ``width`` characters; what all the long ones begin with is left out."""
    long = [name for name in names if len(name) > width]
    words = zip(*(name.split(" ")[:-1] for name in long), strict=False) if len(long) > 1 else ()
    begin = "".join(f"{same[0]} " for same in takewhile(lambda same: len(set(same)) == 1, words))
    return [f"…{name[len(begin) :]}"[:width] if begin and name in long else name[:width] for name in names]


LEGEND_COLUMNS = 3
_LEGEND_LETTERS = 22


def legend_height(names: Sequence[str]) -> float:
    """Return the millimetres that :func:`add_legend` takes."""
    labels = [wrapped(name, _LEGEND_LETTERS) for name in names]
    columns = min(LEGEND_COLUMNS, len(labels))
    rows = -(-len(labels) // columns)
    tallest = max(label.count("\n") + 1 for label in labels)
    return rows * (tallest * LINE + 1) + 2


def add_legend(figure: Figure, names: Sequence[str], styles: Sequence[RunStyle], *, line: bool) -> None:
    """Add the runs' legend at the top, as wide as the figure."""
    handles = [
        Line2D(
            [],
            [],
            color=style.color,
            marker=style.marker if line else "s",
            linestyle="-" if line else "none",
            markersize=5 if line else 7,
            label=wrapped(name, _LEGEND_LETTERS),
        )
        for name, style in zip(names, styles, strict=True)
    ]
    figure.legend(
        handles=handles,
        loc="upper center",
        ncols=min(LEGEND_COLUMNS, len(handles)),
        frameon=False,
        borderaxespad=0.2,
        labelspacing=0.4,
        columnspacing=1.2,
    )
