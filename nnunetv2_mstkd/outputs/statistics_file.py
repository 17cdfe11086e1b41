"""``statistics.json``: what was measured of every case of a folder, and which run each segmentation is from.

Any number of runs may add to it at once; an entry is only ever replaced by a newer one of the same case.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import locked_folder, read_json, write_json
from nnunetv2_mstkd.outputs.run import model_name

STATISTICS_FILE = "statistics.json"
_VERSION = 1
_COORDINATES = (
    "mm; NIfTI's axes: x grows to the patient's right, y to the front, z upwards (2D images: their own)"
)


@dataclass
class Statistics:
    """The content of ``statistics.json``.

    Attributes:
        cases: case → its entry; see ``case.py``.
        runs: what segmentations were made with, each combination of model and versions once; an entry's
            ``run`` is a position here.
    """

    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)

    def run_of(self, case: str) -> Mapping[str, Any] | None:
        """Return what a case was segmented with, or None where nobody knows."""
        number = self.cases[case].get("run")
        return None if number is None else self.runs[number]


def read_statistics(folder: Path) -> Statistics:
    """Read a folder's statistics; empty where there are none.

    Raises:
        MSTKDError: the file is none of ours.
    """
    path = folder / STATISTICS_FILE
    if not path.exists():
        return Statistics()
    content = read_json(path)
    try:
        statistics = Statistics(dict(content["cases"]), list(content["runs"]))
        for case, entry in statistics.cases.items():
            entry["regions"].items()
            statistics.run_of(case)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise MSTKDError(f"{path} is not written by nnUNetv2_mstkd; move it away") from None
    return statistics


def _run_entry(statistics: Statistics, run: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a case's entry says of its run, which is added where it is new."""
    if run is None:
        return {"run": None, "model": None, "version": None}
    stored = json.loads(json.dumps(run))  # as it is read again: a tuple is a list then
    if stored not in statistics.runs:
        statistics.runs.append(stored)
    return {
        "run": statistics.runs.index(stored),
        "model": model_name(stored),
        "version": stored["versions"]["nnunetv2-mstkd"],
    }


def add_entry(folder: Path, case: str, entry: Mapping[str, Any], run: Mapping[str, Any] | None) -> None:
    """Add or replace one case's entry, under a lock and in one step.

    Args:
        entry: without ``run``.
        run: what the segmentation was made with; None where nobody knows.

    Raises:
        MSTKDError: the file that is there is none of ours, or the disk is full.
    """
    with locked_folder(folder):
        statistics = read_statistics(folder)
        statistics.cases[case] = {**entry, **_run_entry(statistics, run)}
        _write(statistics, folder)


def drop_removed(folder: Path) -> list[str]:
    """Drop the entries of segmentations that are in the folder no more.

    Returns:
        The cases.

    Raises:
        MSTKDError: the file that is there is none of ours, or the disk is full.
    """
    with locked_folder(folder):
        statistics = read_statistics(folder)
        removed = [case for case, entry in statistics.cases.items() if not (folder / entry["file"]).exists()]
        if removed:
            for case in removed:
                del statistics.cases[case]
            _write(statistics, folder)
        return removed


def _write(statistics: Statistics, folder: Path) -> None:
    content = {
        "version": _VERSION,
        "coordinates": _COORDINATES,
        "runs": statistics.runs,
        "cases": dict(sorted(statistics.cases.items())),
    }
    write_json(content, folder / STATISTICS_FILE)
