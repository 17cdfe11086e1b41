"""A table of files, for what no rule can say: a row for each image (case, sequence, path; patient)."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_mstkd.errors import MSTKDError

TABLE_ENDINGS = (".csv", ".tsv")
_COLUMNS = {"case": ("case",), "sequence": ("sequence", "modality"), "path": ("path", "file")}
_PATIENT = "patient"  # may be left out


@dataclass(frozen=True)
class Row:
    """One image: which line of the table, which case, which modality (as written), where, whose (or "")."""

    line: int
    case: str
    sequence: str
    path: Path
    patient: str = ""


def is_table(path: Path) -> bool:
    """Whether a path is meant as such a table."""
    return path.suffix.lower() in TABLE_ENDINGS


def read_table(table: Path) -> list[Row]:
    """Read the rows; empty lines are skipped, further columns than ``patient`` are not looked at.

    Args:
        table: text with commas, semicolons or tabs. Relative paths count from its folder.

    Raises:
        MSTKDError: it cannot be read, lacks a column or has a row with an empty cell.
    """
    try:
        # Spreadsheets begin with a mark.
        lines = table.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise MSTKDError(f"table not found: {table}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise MSTKDError(f"cannot read the table {table}: {error}; save it as CSV in UTF-8") from None
    header = next((line for line in lines if line.strip()), "")
    delimiter = max(",;\t", key=header.count)
    rows = list(_rows(table, csv.reader(lines, delimiter=delimiter)))
    if not rows:
        raise MSTKDError(
            f"the table {table} has no rows; it needs a row for each image: case, sequence, path"
        )
    return rows


def _rows(table: Path, cells: Iterator[list[str]]) -> Iterator[Row]:
    places: dict[str, int] = {}
    for line, row in enumerate(cells, start=1):
        row = [cell.strip() for cell in row]
        if not any(row):
            continue
        if not places:
            places = _places(table, [cell.lower() for cell in row])
            continue
        case, sequence, path = (_cell(row, places[column]) for column in _COLUMNS)
        if not (case and sequence and path):
            raise MSTKDError(
                f"{table}, line {line}: case, sequence or path is empty; leave out the row of an absent file"
            )
        if "/" in case or "\\" in case or case.startswith("."):
            raise MSTKDError(
                f"{table}, line {line}: '{case}' cannot name a file; leave / and a first dot away"
            )
        patient = _cell(row, places[_PATIENT]) if _PATIENT in places else ""
        yield Row(line, case, sequence, table.parent / path, patient)


def _cell(row: list[str], place: int) -> str:
    return row[place] if place < len(row) else ""


def _places(table: Path, header: list[str]) -> dict[str, int]:
    places = {}
    for column, names in _COLUMNS.items():
        found = next((header.index(name) for name in names if name in header), None)
        if found is None:
            raise MSTKDError(
                f"the table {table} has no column '{column}'; its first line must name case, sequence, path"
            )
        places[column] = found
    return places | ({_PATIENT: header.index(_PATIENT)} if _PATIENT in header else {})
