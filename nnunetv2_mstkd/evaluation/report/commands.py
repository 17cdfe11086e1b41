"""The commands that do a comparison again, in order."""

from __future__ import annotations

import os
import re
import shlex
from itertools import chain

from nnunetv2_mstkd.evaluation.comparison.runs import Comparison
from nnunetv2_mstkd.evaluation.record.record import EvaluationRecord
from nnunetv2_mstkd.evaluation.report.described import titled

_NUMBER = re.compile(r"Dataset(\d{3})_")


def training_commands(record: EvaluationRecord) -> list[str]:
    """List what trains the evaluated model, fold by fold; nothing where the record does not name it.

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
    """List what puts the plans that the model was trained with where training looks for them.

    nnU-Net stores them whole with every model. Plans of that name which are there already stay.
    """
    model = record.model
    if not (training_commands(record) and model.get("folder")):
        return []
    stored = shlex.quote(f"{model['folder']}/plans.json")
    target = shlex.quote(f"{record.dataset}/{model['plans']}.json")
    return [f'cp -n {stored} "$nnUNet_preprocessed"/{target}', *_preprocess(record)]


def _preprocess(record: EvaluationRecord) -> list[str]:
    """List what makes the training data of the plans; nnU-Net names a data set by its number here."""
    model, number = record.model, _NUMBER.match(record.dataset)
    if number is None:
        return []
    plans, configuration = str(model["plans"]), str(model["configuration"])
    words = ("nnUNetv2_preprocess", "-d", str(int(number[1])), "-plans_name", plans, "-c", configuration)
    return [shlex.join(words)]


def _evaluate_commands(record: EvaluationRecord) -> tuple[str, ...]:
    """List the commands of an evaluation, after a comment that says where they were typed."""
    directories = {session.command: session.directory for session in record.sessions}
    lines: list[str] = []
    for command in record.commands:
        place = _in(directories.get(command, ""))
        lines += [place, command] if place and place not in lines else [command]
    return tuple(lines)


def _in(directory: str) -> str:
    return f"# typed in {directory}" if directory else ""


def commands(comparison: Comparison, compare: str) -> list[tuple[str, str]]:
    """List titles and commands, one a line, for everything that has to be typed again, in order."""
    plans: dict[str, dict[str, None]] = {}
    train: dict[str, dict[str, None]] = {}
    evaluate: dict[tuple[str, ...], str] = {}
    for run in comparison.runs:
        records = [evaluation.record for evaluation in run.evaluations]
        plans[f"Plans: {run.name}"] = dict.fromkeys(chain.from_iterable(map(plans_command, records)))
        train[f"Train: {run.name}"] = dict.fromkeys(chain.from_iterable(map(training_commands, records)))
    for title, evaluation in titled(comparison):
        lines = _evaluate_commands(evaluation.record)
        if lines:
            evaluate.setdefault(lines, f"Evaluate: {title}")
    return [
        *((title, "\n".join(lines)) for title, lines in (plans | train).items() if lines),
        *((title, "\n".join(lines)) for lines, title in evaluate.items()),
        ("Compare", "\n".join((_in(os.getcwd()), compare))),
    ]
