"""The commands that do a comparison again, in order."""

from __future__ import annotations

import shlex
from itertools import chain

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


def plans_command(record: EvaluationRecord) -> list[str]:
    """What puts the plans that the model was trained with where training looks for them.

    nnU-Net stores them whole with every model. Plans of that name which are there already stay.
    """
    model = record.model
    if not (training_commands(record) and model.get("folder")):
        return []
    stored = shlex.quote(f"{model['folder']}/plans.json")
    target = shlex.quote(f"{record.dataset}/{model['plans']}.json")
    return [f'cp -n {stored} "$nnUNet_preprocessed"/{target}']


def commands(comparison: Comparison, compare: str) -> list[tuple[str, str]]:
    """A title and commands, one a line, for everything that has to be typed again, in order."""
    plans: dict[str, dict[str, None]] = {}
    train: dict[str, dict[str, None]] = {}
    evaluate: dict[str, str] = {}
    for run in comparison.runs:
        records = [evaluation.record for evaluation in run.evaluations]
        plans[f"Plans: {run.name}"] = dict.fromkeys(chain.from_iterable(map(plans_command, records)))
        train[f"Train: {run.name}"] = dict.fromkeys(chain.from_iterable(map(training_commands, records)))
    for title, evaluation in titled(comparison):
        if evaluation.record.command:
            evaluate.setdefault(evaluation.record.command, f"Evaluate: {title}")
    return [
        *((title, "\n".join(lines)) for title, lines in (plans | train).items() if lines),
        *((title, command) for command, title in evaluate.items()),
        ("Compare", compare),
    ]
