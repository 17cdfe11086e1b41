"""What was compared, and the commands that do it again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nnunetv2_mstkd.evaluation.comparison.runs import Comparison
from nnunetv2_mstkd.evaluation.policies import POLICIES
from nnunetv2_mstkd.evaluation.report.cells import NONE, Cell, Column, Table, count_cell, text_cell
from nnunetv2_mstkd.evaluation.results import Evaluation, EvaluationRecord

_SHORT_ID = 12  # characters; the whole id stands in the details
_MODEL_FACTS = ("trainer", "plans", "configuration", "checkpoint")


@dataclass(frozen=True)
class DescribedEvaluation:
    """One evaluation of a run.

    Attributes:
        title: run, and which of its evaluations.
        facts: name → value, for people.
        settings: the plans' ``"mstkd"`` dict as JSON, or empty.
    """

    title: str
    facts: Mapping[str, str]
    settings: str


def facts(comparison: Comparison) -> dict[str, str]:
    """The head of the report."""
    scores, record = comparison.scores, comparison.runs[0].evaluations[0].record
    policy = POLICIES.get(comparison.policy)
    source = f" (as in: {policy.source})" if policy else ""
    found = {
        "Runs": ", ".join(run.name for run in comparison.runs),
        "Reference": comparison.reference if len(comparison.runs) > 1 else NONE,
        "Data set": record.dataset,
        "Cases": f"{scores['case'].nunique()} of {scores['patient'].nunique()} patients",
        "Modalities": ", ".join(comparison.modalities),
        "Subsets": str(len(comparison.subsets)),
        "Regions": ", ".join(comparison.regions),
        "Empty masks": f"policy {comparison.policy}{source}",
    }
    return found | ({"Lesion-wise rules": record.lesionwise} if record.lesionwise else {})


def overview(comparison: Comparison) -> Table:
    """A row per evaluation."""
    titles = ("Run", "Model", "Id", "Folds", "Cases", "Commit")
    rows = []
    for run in comparison.runs:
        for evaluation in run.evaluations:
            record = evaluation.record
            words = (run.name, record.model.get("name", NONE), str(record.model.get("id", NONE))[:_SHORT_ID])
            cells = [*map(text_cell, words), text_cell(_folds(record) or NONE)]
            rows.append([*cells, count_cell(len(record.cases)), Cell(_short_commit(record.git))])
    columns = [Column(title, numeric=title == "Cases") for title in titles]
    return Table("Evaluations. Several of one run are its folds or seeds.", columns, rows, heads=1)


def _folds(record: EvaluationRecord) -> str:
    return ", ".join(str(fold) for fold in record.model.get("folds") or ())


def _short_commit(commit: str | None) -> str:
    if not commit:
        return NONE
    digest, _, mark = commit.partition("-")
    return digest[:_SHORT_ID] + (f"-{mark}" if mark else "")


def described(comparison: Comparison) -> list[DescribedEvaluation]:
    """Every evaluation of every run."""
    return [_described(title, evaluation) for title, evaluation in _titled(comparison)]


def _titled(comparison: Comparison) -> Iterator[tuple[str, Evaluation]]:
    """Every evaluation under the name of its run, numbered where a run has several."""
    for run in comparison.runs:
        count = len(run.evaluations)
        for position, evaluation in enumerate(run.evaluations, start=1):
            several = f", evaluation {position} of {count}" if count > 1 else ""
            yield run.name + several, evaluation


def _described(title: str, evaluation: Evaluation) -> DescribedEvaluation:
    record, model = evaluation.record, evaluation.record.model
    settings = model.get("settings") or {}
    known = {
        "Model": model.get("name"),
        "Id": model.get("id"),
        "Model folder": model.get("folder"),
        **{key.capitalize(): model.get(key) for key in _MODEL_FACTS},
        "Folds": _folds(record),
        "Inference": _pairs(model.get("inference") or {}),
        "Evaluation folder": evaluation.folder.resolve(),
        "Cases": len(record.cases),
        "Commit": record.git,
        "Versions": _pairs(record.versions),
    }
    shown = {name: str(value) for name, value in known.items() if value not in (None, "")}
    return DescribedEvaluation(
        title, shown, json.dumps(settings, indent=2, ensure_ascii=False) if settings else ""
    )


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def commands(comparison: Comparison, compare: str) -> list[tuple[str, str]]:
    """A title and a command for everything that has to be typed again, in order."""
    found: dict[str, str] = {}
    for title, evaluation in _titled(comparison):
        if evaluation.record.command:
            found.setdefault(evaluation.record.command, title)
    return [(f"Evaluate: {title}", command) for command, title in found.items()] + [("Compare", compare)]
