"""What was compared: runs, their evaluations, the settings of their models."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nnunetv2_mstkd.evaluation.comparison.facts import CommonFacts
from nnunetv2_mstkd.evaluation.comparison.runs import ComparedRun, Comparison
from nnunetv2_mstkd.evaluation.metrics.policies import POLICIES
from nnunetv2_mstkd.evaluation.record.record import SHORT_ID, Evaluation, EvaluationRecord, Session
from nnunetv2_mstkd.evaluation.report.cells import NONE, Cell, Column, Table, count_cell, text_cell

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
    """Return what was compared, for the head of the report: name → value."""
    scores, common = comparison.scores, comparison.facts
    policy = POLICIES.get(comparison.policy)
    source = f" (as in: {policy.source})" if policy else ""
    found = {
        "Runs": ", ".join(run.name for run in comparison.runs),
        "Reference": comparison.reference if len(comparison.runs) > 1 else NONE,
        "Data set": ", ".join(common.datasets) or NONE,
        "Cases": f"{scores['case'].nunique()} of {scores['patient'].nunique()} patients",
        "Modalities": ", ".join(comparison.modalities),
        "Subsets": _subsets(common, len(comparison.subsets)),
        "Regions": ", ".join(comparison.regions),
        "Empty masks": f"policy {comparison.policy}{source}",
        "Bootstrap": f"{comparison.resamples} resamples, seed {comparison.seed}",
    }
    found |= {"Left out": f"{', '.join(comparison.without)} (--without)"} if comparison.without else {}
    return found | ({"Lesion-wise rules": common.lesionwise} if common.lesionwise else {})


def _subsets(common: CommonFacts, subsets: int) -> str:
    """Print how many subsets there are, and of each case where those are fewer."""
    if common.fewest == common.most == subsets:
        return str(subsets)
    each = str(common.most) if common.fewest == common.most else f"{common.fewest} to {common.most}"
    return f"{subsets}, of each case {each}"


def overview(comparison: Comparison) -> Table:
    """Make a row per evaluation."""
    titles = ("Run", "Model", "Id", "Folds", "Seed", "Cases", "Commit")
    rows = []
    for run in comparison.runs:
        for evaluation in run.evaluations:
            record = evaluation.record
            words = [run.name, record.model.get("name", NONE), str(record.model.get("id", NONE))[:SHORT_ID]]
            words += [_folds(record) or NONE, _settings(record).get("seed", NONE)]
            commits = ", ".join(map(_short_commit, record.commits))
            rows.append([*map(text_cell, words), count_cell(len(record.cases)), Cell(commits)])
    columns = [Column(title, numeric=title == "Cases") for title in titles]
    return Table("Evaluations", columns, rows, "Several of one run are its folds or seeds.", heads=1)


def settings_table(comparison: Comparison) -> Table | None:
    """Make a row per setting, a column per run; None where no model says anything of its training."""
    names: dict[str, None] = {}
    for _, evaluation in titled(comparison):
        names |= dict.fromkeys(_settings(evaluation.record))
    if not names:
        return None
    rows = [[text_cell(name), *(_setting_cell(run, name) for run in comparison.runs)] for name in names]
    columns = [Column(title, numeric=False) for title in ("Setting", *(run.name for run in comparison.runs))]
    note = "Bold: set in the plans; the others are defaults, as far as the training wrote them down."
    return Table("Settings in force", columns, rows, note, heads=1, wide=True)


def _settings(record: EvaluationRecord) -> dict[str, Any]:
    """Return what the training went by: what the plans set, and what its trainer says of the rest."""
    return {**(record.model.get("in_force") or {}), **(record.model.get("settings") or {})}


def _setting_cell(run: ComparedRun, name: str) -> Cell:
    """Print the values of a run's evaluations, each once (seeds differ)."""
    records = [evaluation.record for evaluation in run.evaluations]
    values = [_settings(record)[name] for record in records if name in _settings(record)]
    texts = dict.fromkeys(v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values)
    given = any(name in (record.model.get("settings") or {}) for record in records)
    return Cell(", ".join(texts) or NONE, strong=given)


def _folds(record: EvaluationRecord) -> str:
    return ", ".join(str(fold) for fold in record.model.get("folds") or ())


def _short_commit(commit: str | None) -> str:
    if not commit:
        return NONE
    digest, _, mark = commit.partition("-")
    return digest[:SHORT_ID] + (f"-{mark}" if mark else "")


def described(comparison: Comparison) -> list[DescribedEvaluation]:
    """Describe every evaluation of every run."""
    return [_described(title, evaluation) for title, evaluation in titled(comparison)]


def titled(comparison: Comparison) -> Iterator[tuple[str, Evaluation]]:
    """Yield every evaluation under the name of its run, numbered where a run has several."""
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
        "Commit": ", ".join(commit for commit in record.commits if commit),
        "Versions": _pairs(record.versions),
        "Calls": "; ".join(map(_session, record.sessions)),
    }
    shown = {name: str(value) for name, value in known.items() if value not in (None, "")}
    return DescribedEvaluation(
        title, shown, json.dumps(settings, indent=2, ensure_ascii=False) if settings else ""
    )


def _session(session: Session) -> str:
    """Print ``2026-11-24 10:15:02 UTC: 33 scores, commit c0ffee…``."""
    when = f"{session.started[:19].replace('T', ' ')} UTC"
    scored = "killed" if session.scored is None else f"{session.scored} scores"
    return f"{when}: {scored}, commit {_short_commit(session.git)}"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
