"""``report.txt`` of a folder of segmentations: one paragraph for each run's model and versions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2_mstkd.evaluation.report.methods_text import (
    METHODS_TEXT,
    References,
    assembled,
    model_words,
    software,
)
from nnunetv2_mstkd.files import atomic_path
from nnunetv2_mstkd.outputs.statistics_file import Statistics

Entry = Mapping[str, Any]

_MEASURED = (
    "Volumes are numbers of voxels times the size of a voxel; lesions are connected components (26"
    " neighbours, 8 in 2D)."
)


def write_run_text(statistics: Statistics, folder: Path) -> None:
    """Write ``report.txt`` in one step."""
    with atomic_path(folder / METHODS_TEXT) as temporary:
        temporary.write_text(run_text(statistics), encoding="utf-8")


def run_text(statistics: Statistics) -> str:
    """Describe how the segmentations of a folder were made."""
    references, by_run = References(), _by_run(statistics)
    paragraphs = [
        _paragraph(entries, None if number is None else statistics.runs[number], references)
        for number, entries in by_run.items()
    ]
    return assembled([*paragraphs, _MEASURED], references)


def _by_run(statistics: Statistics) -> dict[int | None, list[Entry]]:
    found: dict[int | None, list[Entry]] = {}
    for entry in statistics.cases.values():
        found.setdefault(entry.get("run"), []).append(entry)
    return found


def _paragraph(entries: Sequence[Entry], run: Mapping[str, Any] | None, references: References) -> str:
    changed = sum(bool(entry.get("changed")) for entry in entries)
    after = f" {_cases(changed)} of them {_was(changed)} changed after prediction." if changed else ""
    if run is None:
        return f"{_cases(len(entries))}: nothing is known of what made these segmentations.{after}"
    model = model_words(run["model"], run.get("reference", ""), references)
    return (
        f"{_cases(len(entries))} {_was(len(entries))} segmented with {software(run['versions'], references)}:"
        f" {model}.{_subsets(entries, run.get('modalities') or ())}{after}"
    )


def _subsets(entries: Sequence[Entry], modalities: Sequence[str]) -> str:
    """Say what was there of the model's sequences, and what stood for the rest."""
    text = f" The model takes {', '.join(modalities)}."
    known = [entry["used"] for entry in entries if entry.get("used") is not None]
    incomplete = [used for used in known if len(used) < len(modalities)]
    if len(known) < len(entries):
        text += f" Of {_cases(len(entries) - len(known))} it is not known which were there."
    if not incomplete:
        return text + (" All of them were there in every case." if len(known) == len(entries) else "")
    lacking = Counter(name for used in incomplete for name in modalities if name not in used)
    counts = ", ".join(f"{name} in {lacking[name]}" for name in modalities if lacking[name])
    return (
        f"{text} {_cases(len(incomplete))} of {len(known)} lacked sequences ({counts}), which were set to"
        " zero after normalisation; no image was synthesised."
    )


def _cases(number: int) -> str:
    return f"{number} case{'s' if number != 1 else ''}"


def _was(number: int) -> str:
    return "were" if number != 1 else "was"
