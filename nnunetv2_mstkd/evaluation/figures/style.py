"""How all figures look: size, fonts, colours, and placing in millimetres.

A figure is as wide as two columns of a journal and can be read in one of them: its smallest letters are 5 pt
there.

Colours: Okabe and Ito, Color Universal Design, 2008 (told apart with every kind of colour blindness), with a
darker grey.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import takewhile
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager, get_font
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path

WIDTH = 180.0  # mm, two columns of a journal
COLUMN = 88.0  # mm, one of them
DPI = 200
SMALL = 10.3  # pt, the smallest font: 5 pt where a figure is scaled down to one column
LINE = 4.3  # mm that a line of it takes
TITLE = 11.5  # pt, of the titles of panels, which are bold
TITLE_LINE = 4.9  # mm that a line of a title takes
_MM_PER_INCH, _PT_PER_INCH = 25.4, 72
# Labels below axes move to the left with them, by less each time.
_MOST_MOVES = 5

# Yellow is left out: it is hard to see as a line on white.
RUN_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

# For what DejaVu Sans has no letters of: Chinese, Japanese, Korean.
_FALLBACK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans",
    "Apple SD Gothic Neo",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "Arial Unicode MS",
)
_INSTALLED = {font.name for font in fontManager.ttflist}
# DejaVu Sans comes with matplotlib: Latin letters are the same on every machine. Of a generic family
# matplotlib takes one font only, and a font that is not installed makes it complain.
FONTS = ["DejaVu Sans", *(name for name in _FALLBACK_FONTS if name in _INSTALLED)]

RC: Mapping[str, Any] = {
    "font.family": FONTS,
    "font.size": SMALL,
    "axes.titlesize": TITLE,
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


def make_room(panels: Sequence[Axes], room: float) -> None:
    """Move the left edges of axes, all by the same, until what stands to their left fits into ``room`` mm."""
    for _ in range(_MOST_MOVES):
        more = max(map(_width_beside, panels)) - room
        if more <= 0:
            return
        for axes in panels:
            box = axes.get_position()
            axes.set_position((box.x0 + more / WIDTH, box.y0, box.width - more / WIDTH, box.height))
        room += more


def _width_beside(axes: Axes) -> float:
    """Measure what stands to the left of axes, in mm: labels, and the beginnings of those below."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    box = axes.get_tightbbox(FigureCanvasAgg(figure).get_renderer())
    return 0.0 if box is None else float(axes.bbox.x0 - box.x0) / figure.dpi * _MM_PER_INCH


class RunStyle(NamedTuple):
    """How a run is drawn."""

    color: str
    marker: str


def run_style(number: int) -> RunStyle:
    """Return the style of the run with this number; they repeat after eight."""
    return RunStyle(RUN_COLORS[number % len(RUN_COLORS)], MARKERS[number % len(MARKERS)])


def text_width(text: str, *, size: float = SMALL, bold: bool = False) -> float:
    """Measure the longest line of a text, in mm."""
    return max(sum(_letter_width(c, bold) for c in line) for line in text.split("\n")) * size / SMALL


@cache
def _letter_width(letter: str, bold: bool) -> float:
    font = FontProperties(family=FONTS, size=SMALL, weight="bold" if bold else "normal")
    width, _, _ = text_to_path.get_text_width_height_descent(letter, font, False)
    return width * _MM_PER_INCH / _PT_PER_INCH


def unknown_letters(texts: Iterable[str]) -> str:
    """Return the letters that none of the fonts has, each once; figures show a box for each."""
    known = _known_letters()
    return "".join(dict.fromkeys(c for text in texts for c in text if ord(c) not in known))


@cache
def _known_letters() -> frozenset[int]:
    paths = (fontManager.findfont(FontProperties(family=name)) for name in FONTS)
    return frozenset(code for path in paths for code in get_font(path).get_charmap())


_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


def wrapped(text: str, width: float, lines: int = 2, *, size: float = SMALL, bold: bool = False) -> str:
    """Wrap text into at most ``lines`` lines of ``width`` mm; of a longer one the middle is left out.

    Names of runs often differ at their end only, so that the end must stay. A word that is too long is broken
    where a capital begins, as in names of classes.
    """

    def fits(line: str) -> bool:
        return text_width(line, size=size, bold=bold) <= width

    words = (word if fits(word) else _HUMP.sub(" ", word) for word in text.split(" "))
    for candidate in _shortened(" ".join(words)):
        parts = _filled(candidate, fits)
        if len(parts) <= lines:
            break
    return "\n".join(parts)


def panel_title(region: str, width: float, lines: int = 1) -> str:
    """Wrap the name of a region into the title of a panel ``width`` mm wide."""
    return wrapped(region, width, lines, size=TITLE, bold=True)


def _filled(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Fill lines with words; one that does not fit into a line of its own is broken anywhere."""
    lines = [""]
    for word in text.split():
        if fits(f"{lines[-1]} {word}".lstrip()):
            lines[-1] = f"{lines[-1]} {word}".lstrip()
            continue
        lines += [""] if lines[-1] else []
        for letter in word:
            lines += [] if fits(lines[-1] + letter) else [""]
            lines[-1] += letter
    return lines


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
    """Shorten names of modalities to ``width`` characters, each to another one.

    What all the long ones begin with is left out. Where two become the same, their ends are kept instead of
    their beginnings; where that does not help either, they are numbered.
    """
    long = [name for name in names if len(name) > width]
    words = zip(*(name.split(" ")[:-1] for name in long), strict=False) if len(long) > 1 else ()
    begin = "".join(f"{same[0]} " for same in takewhile(lambda same: len(set(same)) == 1, words))
    short = [f"…{name[len(begin) :]}"[:width] if begin and name in long else name[:width] for name in names]
    ends = [f"…{name[1 - width :]}" if name in long else name for name in names]
    short = [end if short.count(name) > 1 else name for name, end in zip(short, ends, strict=True)]
    numbered = (f"{name[: width - 3]}…{number}" for number, name in enumerate(short, 1))
    return [new if short.count(name) > 1 else name for name, new in zip(short, numbered, strict=True)]


LEGEND_COLUMNS = 3
_LEGEND_WIDTH = 44.0  # mm of a label; with its handle, three of them are as wide as the figure


def legend_height(names: Sequence[str]) -> float:
    """Return the millimetres that :func:`add_legend` takes."""
    labels = [wrapped(name, _LEGEND_WIDTH) for name in names]
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
            label=wrapped(name, _LEGEND_WIDTH),
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
