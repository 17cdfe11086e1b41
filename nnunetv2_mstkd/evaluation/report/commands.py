"""The commands that do a comparison again, in order."""

from __future__ import annotations

import shlex

from nnunetv2_mstkd.evaluation.comparison.runs import Comparison
from nnunetv2_mstkd.evaluation.report.described import titled
from nnunetv2_mstkd.evaluation.results import EvaluationRecord


def training_commands(record: EvaluationRecord) -> list[str]:
    """What trains the model that was evaluated, fold by fold; nothing where the record does not name it.

    The plans hold the settings, so that their name stands for those.
    """
    model = record.model
    names = [model.get(key) for key in ("configuration", "trainer", "plans")]
    if not (record.dataset and all(names)):
        return []
    configuration, trainer, plans = map(str, names)
    return [
        shlex.join(
            ("nnUNetv2_mstkd", "train", record.dataset, configuration, str(fold), "-tr", trainer, "-p", plans)
        )
        for fold in model.get("folds") or ()
    ]


def commands(comparison: Comparison, compare: str) -> list[tuple[str, str]]:
    """A title and commands, one a line, for everything that has to be typed again, in order."""
    train: dict[str, dict[str, None]] = {}
    evaluate: dict[str, str] = {}
    for run in comparison.runs:
        for evaluation in run.evaluations:
            lines = train.setdefault(f"Train: {run.name}", {})
            lines |= dict.fromkeys(training_commands(evaluation.record))
    for title, evaluation in titled(comparison):
        if evaluation.record.command:
            evaluate.setdefault(evaluation.record.command, f"Evaluate: {title}")
    return [
        *((title, "\n".join(lines)) for title, lines in train.items() if lines),
        *((title, command) for command, title in evaluate.items()),
        ("Compare", compare),
    ]
