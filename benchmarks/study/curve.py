"""The same arms at several lengths of training: has their order settled?"""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.study.arms import BAR
from benchmarks.study.markdown import NONE, difference, percent, table
from benchmarks.study.parts import ALL_ARMS, LENGTHS, PARTS, Comparison, Part
from benchmarks.study.scores import INCOMPLETE, ComparisonFolder

_PARTS = {key: PARTS[key] for key in LENGTHS}
_HEADS = tuple(part.about if part.condition.name else "all steps" for part in _PARTS.values())


def curve_tables(found: Iterable[tuple[Part, Comparison, ComparisonFolder]]) -> list[str]:
    """Means of the arms with several lengths, and their differences to the bar of the same length.

    Args:
        found: comparisons of the study's folder.
    """
    of = _by_arm_and_length(found)
    names = [arm.title for arm in ALL_ARMS.values() if sum((arm.title, key) in of for key in LENGTHS) > 1]
    if not names:
        return []
    bar, count = ALL_ARMS[BAR].title, next(iter(of.values())).count
    lines = ["### by length of training", "", "Dice in %, mean of the regions (number of seeds).", ""]
    for title, group in (("inc", INCOMPLETE), ("full", count)):
        rows = [[name, *(_mean(of.get((name, key)), name, group) for key in LENGTHS)] for name in names]
        lines += table([title, *_HEADS], rows)
    others = [name for name in names if name != bar]
    rows = [[name, *(_minus_bar(of.get((name, key)), name) for key in LENGTHS)] for name in others]
    return lines + (table([f"inc, minus {bar}", *_HEADS], rows) if rows else [])


def _by_arm_and_length(
    found: Iterable[tuple[Part, Comparison, ComparisonFolder]],
) -> dict[tuple[str, str], ComparisonFolder]:
    """Title of an arm and key of a length → a comparison with the bar in which it is."""
    of: dict[tuple[str, str], ComparisonFolder] = {}
    for part, wanted, comparison in found:
        if wanted.reference == BAR and not wanted.ablation:
            for key in (key for key, length in _PARTS.items() if length.condition == part.condition):
                for name in comparison.names:
                    of.setdefault((name, key), comparison)
    return of


def _mean(comparison: ComparisonFolder | None, name: str, group: str | int) -> str:
    if comparison is None:
        return NONE
    return f"{percent(comparison.means.loc[name, group])} ({len(comparison.by_patient[name])})"


def _minus_bar(comparison: ComparisonFolder | None, name: str) -> str:
    return difference(None if comparison is None else comparison.differences(INCOMPLETE)[name])
