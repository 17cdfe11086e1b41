"""What a table of the report is made of, and how its numbers are printed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nnunetv2_mstkd.evaluation.metrics.presentation import METRICS
from nnunetv2_mstkd.evaluation.report.markdown import number, p_value

NONE = "–"  # noqa: RUF001 - what tables print for an empty cell


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
        note: printed smaller behind it: an interval.
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
        caption: what it shows.
        columns: as many as every row has cells.
        rows: the first ``heads`` cells of each are its heads.
        heads: how many leading columns name a row.
        wide: with a column per subset; scrolls sideways under its row heads.
    """

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    heads: int = 2
    wide: bool = False

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


def text_cell(text: object) -> Cell:
    """A cell of words."""
    return Cell(str(text))


def count_cell(count: float) -> Cell:
    """A cell with a whole number."""
    return Cell(f"{int(count)}", value=float(count))


def score_cell(value: float, metric: str, *, signed: bool = False, strong: bool = False) -> Cell:
    """A stored score or difference: Dice in %, HD95 in mm, one decimal."""
    if math.isnan(value):
        return Cell(NONE)
    return Cell(_minus(number(value, metric, signed=signed)), value=float(value), strong=strong)


def interval_cell(value: float, low: float, high: float, metric: str, *, signed: bool = False) -> Cell:
    """A score or difference with its interval."""
    cell = score_cell(value, metric, signed=signed)
    return Cell(cell.text, interval_text(low, high, metric, signed=signed), cell.value)


def interval_text(low: float, high: float, metric: str, *, signed: bool = False) -> str:
    """``[81.2, 84.0]``; empty where there is none."""
    if math.isnan(low) or math.isnan(high):
        return ""
    ends = (_minus(number(end, metric, signed=signed)) for end in (low, high))
    return f"[{', '.join(ends)}]"


def printed_cell(value: float, *, signed: bool = False, strong: bool = False) -> Cell:
    """A number that is in its printed unit already."""
    scale = METRICS["dice"].scale
    return score_cell(value / scale, "dice", signed=signed, strong=strong)


def p_cell(p: float) -> Cell:
    """A p-value: three decimals, or < 0.001."""
    return Cell(NONE) if math.isnan(p) else Cell(p_value(p), value=float(p))


def score_head(metric: str) -> str:
    """``Dice (%)``."""
    return f"{METRICS[metric].title} ({METRICS[metric].unit})"


def _minus(text: str) -> str:
    return text.replace("-", "−")  # noqa: RUF001 - the true minus sign, as wide as the plus
