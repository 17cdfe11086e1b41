"""How the study's tables are written: in Markdown, Dice in %."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.study.scores import Difference

NONE = "-"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table, an empty one after it; all columns but the first are of numbers."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def percent(value: float) -> str:
    """A share; a dash for nan."""
    return f"{100 * value:.1f}" if value == value else NONE


def difference(value: Difference | None) -> str:
    """Mean, interval and p; a dash where there is none."""
    if value is None:
        return NONE
    low, high = 100 * value.low, 100 * value.high
    return f"{100 * value.mean:+.1f} [{low:+.1f}, {high:+.1f}], p = {value.p_holm:.2g}"
