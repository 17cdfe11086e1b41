"""The two ways of ``nnUNetv2_mstkd evaluate``: with a model, and of segmentations that are there already."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from nnunetv2_mstkd.commands.evaluate_records import (
    model_command,
    new_record,
    note_session,
    open_folder,
    typed_command,
)
from nnunetv2_mstkd.commands.predict_arguments import loading_options
from nnunetv2_mstkd.datasets.raw_images import reader_class
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.cases import ReferenceCase, folder_cases, training_cases
from nnunetv2_mstkd.evaluation.evaluate import Evaluator, Task, TaskReport, open_tasks, output_of
from nnunetv2_mstkd.evaluation.existing import find_predictions
from nnunetv2_mstkd.evaluation.provenance import describe_model, file_digest
from nnunetv2_mstkd.evaluation.regions import ignore_label
from nnunetv2_mstkd.evaluation.results import EvaluationRecord, Session
from nnunetv2_mstkd.evaluation.scoring import Criteria, FileJob, runner
from nnunetv2_mstkd.evaluation.sessions import begun
from nnunetv2_mstkd.evaluation.store import ScoreStore
from nnunetv2_mstkd.inference.folder import Part, check_folders
from nnunetv2_mstkd.inference.model_folder import Fold, ModelFolder
from nnunetv2_mstkd.inference.predictor import MissingModalityPredictor
from nnunetv2_mstkd.modalities import Subset

logger = logging.getLogger(__name__)


class Progress(Protocol):
    """Takes reports as they come; returns what failed and why."""

    def __call__(
        self, total: int, reports: Iterable[TaskReport], *, disable: bool, verbose: bool = True
    ) -> dict[str, str]: ...


@dataclass(frozen=True)
class Evaluated:
    """What a call has done.

    Attributes:
        record: of the evaluation.
        session: the call itself, with the number of scores that it added.
        problems: what failed, and why.
    """

    record: EvaluationRecord
    session: Session
    problems: dict[str, str]


def evaluate_model(
    arguments: argparse.Namespace,
    model: ModelFolder,
    folds: Sequence[Fold] | None,
    subsets: Sequence[Subset],
    argv: Sequence[str],
    progress: Progress,
) -> Evaluated:
    """Predict what is not predicted yet and score it."""
    if arguments.cases == "val" and (folds is None or len(folds) != 1):
        raise MSTKDError("--cases val needs one fold, whose validation cases they are: give -f FOLD")
    checked = model.folds(folds, arguments.chk)
    cases, problems = _cases(arguments, model, checked[0])
    _refuse_cascade(model)
    inference = {"step_size": arguments.step_size, "mirroring": not arguments.disable_tta}
    session = begun(model_command(argv, arguments, model, checked))
    record = new_record(
        arguments,
        model.dataset_json,
        cases,
        subsets,
        session,
        model=describe_model(model, checked, arguments.chk, inference),
        dataset=str(model.plans.get("dataset_name", "")),
    )
    part = Part(arguments.part_id, arguments.num_parts)  # refuses before anything is written
    open_folder(arguments.o, record)
    store = ScoreStore(arguments.o)
    tasks = open_tasks(cases[part.index :: part.count], subsets, model.modalities, store)
    if tasks:
        note_session(record, session, arguments.o)
        problems |= _predict_and_score(arguments, model, checked, tasks, record, progress)
    return _evaluated(record, session, store, tasks, problems)


def _evaluated(
    record: EvaluationRecord,
    session: Session,
    store: ScoreStore,
    tasks: Iterable[Task],
    problems: dict[str, str],
) -> Evaluated:
    scored = store.count((task.case.name, task.name) for task in tasks)
    return Evaluated(record, replace(session, scored=scored), problems)


def _cases(
    arguments: argparse.Namespace, model: ModelFolder, fold: Fold
) -> tuple[list[ReferenceCase], dict[str, str]]:
    if arguments.cases in ("val", "all"):
        if arguments.labels is not None:
            raise MSTKDError("--labels belongs to --cases FOLDER; training cases have their references")
        if arguments.cases == "all":
            logger.warning(
                "--cases all takes the cases that the model was trained on too; its scores there say nothing"
                " about new cases"
            )
        return training_cases(model, fold if arguments.cases == "val" else None), {}
    folder = Path(arguments.cases)
    check_folders(folder, arguments.o)
    return folder_cases(folder, model, arguments.labels, source_labels=arguments.source_labels)


def _refuse_cascade(model: ModelFolder) -> None:
    previous = model.plans["configurations"].get(model.configuration, {}).get("previous_stage")
    if previous:
        raise MSTKDError(
            f"{model.configuration} refines segmentations of {previous}: predict each subset with both"
            " (predict --modalities), then give --predictions FOLDER"
        )


def _predict_and_score(
    arguments: argparse.Namespace,
    model: ModelFolder,
    folds: Sequence[Fold],
    tasks: Sequence[Task],
    record: EvaluationRecord,
    progress: Progress,
) -> dict[str, str]:
    """Score what a stopped run has predicted, then predict and score the rest."""
    criteria = Criteria(record.regions, ignore_label(model.dataset_json), record.lesionwise)
    predicted, left = [], []
    for task in tasks:
        path = output_of(arguments.o, task.name, model.file_ending).target(task.case.name)
        (predicted if path.is_file() else left).append((task, path))
    options = {"disable": arguments.disable_progress_bar}
    problems: dict[str, str] = {}
    with runner(arguments.executor) as run:
        elsewhere = run if arguments.executor else None
        evaluator = Evaluator(arguments.o, criteria, ScoreStore(arguments.o), elsewhere)
        if predicted:
            reader = reader_class(model.dataset_json, predicted[0][1])
            jobs = [(task, FileJob(path.absolute(), task.case, criteria, reader)) for task, path in predicted]
            reports = evaluator.score_files(jobs, run, threads=run.at_once or arguments.nps)
            problems |= progress(len(jobs), reports, **options)
        if left:
            predictor = MissingModalityPredictor.load(model, folds=folds, **loading_options(arguments))
            predictor.warn_if_not_trained_for(sum(len(t.subset) < len(model.modalities) for t, _ in left))
            reports = evaluator.predict_and_score(
                predictor, [task for task, _ in left], readers=arguments.npp, writers=arguments.nps
            )
            problems |= progress(len(left), reports, verbose=arguments.verbose, **options)
    return problems


def score_predictions(arguments: argparse.Namespace, argv: Sequence[str], progress: Progress) -> Evaluated:
    """Score segmentations that are there already."""
    if arguments.labels is None:
        raise MSTKDError("--predictions needs --labels FOLDER, with CASE and the data set's file ending")
    if arguments.d or arguments.m:
        raise MSTKDError("--predictions needs no model; leave -d and -m away")
    subsets = () if arguments.subsets == ["all"] else _split(arguments.subsets)
    found = find_predictions(arguments.predictions, subsets)
    scored = found.tasks(arguments.labels, source_labels=arguments.source_labels)
    session = begun(typed_command(argv))
    record = new_record(
        arguments,
        found.dataset_json,
        (task.case for task, _ in scored),
        {task.subset for task, _ in scored},
        session,
        model={
            "id": file_digest([path for _, path in scored]),
            "name": arguments.predictions.resolve().name,
            "folder": str(arguments.predictions.resolve()),
        },
        dataset=str(found.dataset_json.get("name", "")),
        predictions=found.folders(arguments.o),
    )
    open_folder(arguments.o, record)
    criteria = Criteria(record.regions, ignore_label(found.dataset_json), record.lesionwise)
    store, reader = ScoreStore(arguments.o), reader_class(found.dataset_json, scored[0][1])
    part = Part(arguments.part_id, arguments.num_parts)
    cases = sorted(record.cases)[part.index :: part.count]
    jobs = [
        (task, FileJob(path.absolute(), task.case, criteria, reader))
        for task, path in scored
        if task.case.name in cases and not store.read(task.case.name).settled(task.name)
    ]
    if jobs:
        note_session(record, session, arguments.o)
    with runner(arguments.executor) as run:
        evaluator = Evaluator(arguments.o, criteria, store)
        reports = evaluator.score_files(jobs, run, threads=run.at_once or arguments.nps)
        problems = progress(len(jobs), reports, disable=arguments.disable_progress_bar)
    return _evaluated(record, session, store, (task for task, _ in jobs), problems)


def _split(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for text in texts for part in text.split(",") if part.strip())
