"""The report as text: ``comparison.md``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nnunetv2_mstkd.evaluation.comparison.runs import Comparison
from nnunetv2_mstkd.evaluation.report.cells import Cell, Section, Table
from nnunetv2_mstkd.evaluation.report.described import facts
from nnunetv2_mstkd.evaluation.report.sections import sections


def comparison_markdown(comparison: Comparison, command: str, figures: Sequence[tuple[str, str]] = ()) -> str:
    """Return the whole of ``comparison.md``.

    Args:
        command: what made it.
        figures: title and relative path of each.
    """
    parts = ["# Comparison", facts_markdown({**facts(comparison), "Command": f"`{command}`"})]
    for section in sections(comparison):
        parts += section_markdown(section)
    if figures:
        parts += ["## Figures", *(f"![{_escaped(title)}]({path})" for title, path in figures)]
    return "\n\n".join(parts) + "\n"


def facts_markdown(facts: Mapping[str, str]) -> str:
    """Print names and values as a table."""
    return _lines(("Setting", "Value"), ("---", "---"), facts.items())


def section_markdown(section: Section) -> list[str]:
    """Print a section: heading, paragraphs, list, tables."""
    parts = [f"## {_escaped(section.title)}", *section.texts]
    if section.points:
        parts.append("\n".join(f"- {point}" for point in section.points))
    return [*parts, *(part for table in section.tables for part in table_markdown(table))]


def table_markdown(table: Table) -> list[str]:
    """Print a table under its title; the heads of groups stand before those of their columns."""
    heads = [f"{column.group}: {column.title}" if column.group else column.title for column in table.columns]
    rules = ["---:" if column.numeric else "---" for column in table.columns]
    rows = ([_text(cell) for cell in row] for row in table.rows)
    note = [table.note] if table.note else []
    return [f"### {_escaped(table.title)}", *note, _lines(heads, rules, rows)]


def _lines(heads: Sequence[str], rules: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(map(_escaped, line)) + " |" for line in (heads, rules, *rows))


def _text(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.strong else cell.text
    return f"{text} {cell.note}" if cell.note else text


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
