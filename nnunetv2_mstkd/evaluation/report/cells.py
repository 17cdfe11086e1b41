"""What sections and tables are made of, and how their numbers are printed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nnunetv2_mstkd.evaluation.metrics.presentation import METRICS

NONE = "–"  # noqa: RUF001 - what tables print for an undefined value


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        title: the head.
        numeric: printed to the right and sorted by number.
        group: head above neighbouring columns, or none.
    """

    title: str
    numeric: bool = True
    group: str = ""


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: as printed.
        note: printed behind it: an interval.
        value: what a numeric column is sorted by; None is an empty cell.
        strong: printed in bold.
    """

    text: str
    note: str = ""
    value: float | None = None
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        title: what it shows; a phrase.
        columns: as many as every row has cells.
        rows: the first ``heads`` cells of each are its heads.
        note: sentences that explain it.
        heads: how many leading columns name a row.
        wide: with a column per subset; on the page it scrolls sideways under its row heads.
        folded: on the page it is shown when asked for.
        under: a heading that it shares with its neighbours, or none.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    heads: int = 2
    wide: bool = False
    folded: bool = False
    under: str = ""

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Heads above the columns and how many columns each spans; none where no column has one."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans if any(group for group, _ in spans) else []

    @property
    def starts(self) -> set[int]:
        """Positions of the columns that begin a group."""
        groups = [column.group for column in self.columns]
        return {i for i, group in enumerate(groups) if group and group != groups[i - 1]}


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        key: short name, for links.
        title: the heading.
        texts: paragraphs before the tables.
        points: a list behind them.
        tables: in order.
    """

    key: str
    title: str
    texts: Sequence[str] = ()
    points: Sequence[str] = ()
    tables: Sequence[Table] = ()


def number(value: float, metric: str, *, signed: bool = False) -> str:
    """Print a stored score or difference: Dice in %, HD95 in mm, one decimal."""
    return _fixed(value * METRICS[metric].scale, signed=signed)


def _fixed(value: float, *, signed: bool = False) -> str:
    if math.isnan(value):
        return NONE
    text = f"{value:+.1f}" if signed else f"{value:.1f}"
    return text.replace("-0.0", "0.0").replace("+0.0", "0.0") if float(text) == 0 else text


def p_value(p: float) -> str:
    """Print a p-value: ``0.013``, ``< 0.001``."""
    if math.isnan(p):
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def interval_text(low: float, high: float, metric: str, *, signed: bool = False) -> str:
    """Print an interval: ``[81.2, 84.0]``; empty where there is none."""
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"[{number(low, metric, signed=signed)}, {number(high, metric, signed=signed)}]"


def score_head(metric: str) -> str:
    """Name a metric with its unit: ``Dice (%)``."""
    return f"{METRICS[metric].title} ({METRICS[metric].unit})"


def text_cell(text: object) -> Cell:
    """Make a cell of words."""
    return Cell(str(text))


def count_cell(count: float) -> Cell:
    """Make a cell with a whole number."""
    return Cell(f"{int(count)}", value=float(count))


def score_cell(value: float, metric: str, *, signed: bool = False, strong: bool = False) -> Cell:
    """Make a cell of a stored score or difference."""
    return printed_cell(value * METRICS[metric].scale, signed=signed, strong=strong)


def printed_cell(value: float, *, signed: bool = False, strong: bool = False) -> Cell:
    """Make a cell of a number that is in its printed unit already."""
    if math.isnan(value):
        return Cell(NONE)
    return Cell(_fixed(value, signed=signed), value=float(value), strong=strong)


def interval_cell(value: float, low: float, high: float, metric: str, *, signed: bool = False) -> Cell:
    """Make a cell of a score or difference with its interval."""
    cell = score_cell(value, metric, signed=signed)
    return Cell(cell.text, interval_text(low, high, metric, signed=signed), cell.value)


def p_cell(p: float) -> Cell:
    """Make a cell of a p-value."""
    return Cell(p_value(p), value=None if math.isnan(p) else float(p))
