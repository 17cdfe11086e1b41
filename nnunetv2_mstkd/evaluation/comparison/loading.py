"""Which evaluations make up each run, and what the runs are called."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.comparison.runs import ComparedRun
from nnunetv2_mstkd.evaluation.record.record import RECORD_FILE, Evaluation, read_evaluation

_TRAINER_PREFIX = "nnUNetTrainer"
_STOCK_TRAINER = "nnUNet"  # what nnUNetTrainer itself is called


def load_runs(arguments: Sequence[str], names: Sequence[str] | None = None) -> tuple[ComparedRun, ...]:
    """Read the runs of a command line.

    Args:
        arguments: one per run: the folder of an evaluation, a folder whose direct children are evaluations
            (folds or seeds of one method), or several of those joined by commas.
        names: one per run; by default the shortest that tell the runs apart.

    Raises:
        MSTKDError: a folder holds no evaluation, is given twice, or the names do not fit.
    """
    if names is not None and len(names) != len(arguments):
        raise MSTKDError(f"{len(names)} --names for {len(arguments)} runs; give one name per run")
    groups = [_evaluations(argument) for argument in arguments]
    _refuse_repeated([evaluation for group in groups for evaluation in group])
    names = list(names) if names is not None else default_names(arguments, groups)
    _check_names(names)
    return tuple(ComparedRun(name, group) for name, group in zip(names, groups, strict=True))


def without_cases(runs: Sequence[ComparedRun], names: Sequence[str]) -> tuple[ComparedRun, ...]:
    """Leave cases out of every run.

    Raises:
        MSTKDError: no run has such a case, or a run has no other.
    """
    unknown = set(names).difference(*(e.record.cases for run in runs for e in run.evaluations))
    if unknown:
        raise MSTKDError(f"--without {sorted(unknown)[0]}: no run has this case; check its name")
    return tuple(replace(run, evaluations=tuple(_without(e, names) for e in run.evaluations)) for run in runs)


def _without(evaluation: Evaluation, names: Sequence[str]) -> Evaluation:
    if not names:
        return evaluation
    left = {name: case for name, case in evaluation.record.cases.items() if name not in names}
    if not left:
        raise MSTKDError(f"--without leaves no case of {evaluation.folder}; leave fewer out")
    record = replace(evaluation.record, cases=left)
    return Evaluation(evaluation.folder, record, evaluation.without.union(names))


def run_folders(argument: str) -> list[Path]:
    """List the folders that a RUN argument names; a folder whose name has a comma is one folder."""
    try:
        if Path(argument).exists():
            return [Path(argument)]
    except OSError:  # many folders with commas make a name that is longer than names can be
        pass
    return [Path(part) for part in argument.split(",") if part]


def _evaluations(argument: str) -> tuple[Evaluation, ...]:
    folders = [folder for given in run_folders(argument) for folder in _evaluation_folders(given)]
    if not folders:
        raise MSTKDError("a run is an empty name; give the -o folder of nnUNetv2_mstkd evaluate")
    return tuple(read_evaluation(folder) for folder in folders)


def _evaluation_folders(folder: Path) -> list[Path]:
    if (folder / RECORD_FILE).is_file() or not folder.is_dir():
        return [folder]
    children = sorted(path.parent for path in folder.glob(f"*/{RECORD_FILE}"))
    return [child for child in children if not child.name.startswith(".")] or [folder]


def _refuse_repeated(evaluations: Sequence[Evaluation]) -> None:
    counts = Counter(evaluation.folder.resolve() for evaluation in evaluations)
    folder, count = counts.most_common(1)[0]
    if count > 1:
        raise MSTKDError(f"the evaluation {folder} is given {count} times; give each one once")


def _check_names(names: Sequence[str]) -> None:
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise MSTKDError(f"{count} runs are named '{name}'; give each its own with --names")
    for name in names:
        if not name.strip() or not name.isprintable():
            raise MSTKDError(f"the run name {name!r} cannot be printed; give another one with --names")


def default_names(arguments: Sequence[str], groups: Sequence[tuple[Evaluation, ...]]) -> list[str]:
    """Find the shortest names that tell the runs apart.

    Trainers without ``nnUNetTrainer``; where they repeat, with configuration and plans; else the folders,
    with as many parents as it takes.
    """
    for label in (_trainer, _trainer_and_configuration, _trainer_and_plans):
        labels = [label(group[0]) for group in groups]
        if len(set(labels)) == len(labels):
            return labels
    paths = [_common_folder(argument) for argument in arguments]
    for depth in range(1, max(len(path.parts) for path in paths)):
        labels = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(labels)) == len(labels):
            return labels
    return list(arguments)


def _common_folder(argument: str) -> Path:
    return Path(os.path.commonpath([folder.resolve() for folder in run_folders(argument)]))


def _trainer(evaluation: Evaluation) -> str:
    model = evaluation.record.model
    trainer = model.get("trainer")
    if not trainer:
        return str(model["name"])
    return trainer.removeprefix(_TRAINER_PREFIX) or _STOCK_TRAINER


def _trainer_and(key: str) -> Callable[[Evaluation], str]:
    def label(evaluation: Evaluation) -> str:
        value = evaluation.record.model.get(key)
        return f"{_trainer(evaluation)} {value}" if value else _trainer(evaluation)

    return label


_trainer_and_configuration = _trainer_and("configuration")
_trainer_and_plans = _trainer_and("plans")


def find_run(text: str, arguments: Sequence[str], runs: Sequence[ComparedRun]) -> str:
    """Return the name of the run that ``--reference`` means: a run's name, or its argument.

    Raises:
        MSTKDError: no run has this name or folder.
    """
    names = [run.name for run in runs]
    if text in names:
        return text
    folders = [[folder.resolve() for folder in run_folders(argument)] for argument in arguments]
    wanted = [folder.resolve() for folder in run_folders(text)]
    if wanted in folders:
        return names[folders.index(wanted)]
    raise MSTKDError(f"--reference '{text}' is none of the runs; they are named {', '.join(names)}")
