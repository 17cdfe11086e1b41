"""The two ways of ``nnUNetv2_mstkd evaluate``: with a model, and of segmentations that are there already."""

from __future__ import annotations

import argparse
import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from nnunetv2_mstkd.commands.arguments import loading_options
from nnunetv2_mstkd.commands.evaluate_records import (
    evaluated_case,
    model_command,
    new_record,
    note_session,
    open_folder,
    typed_command,
)
from nnunetv2_mstkd.datasets.raw_images import reader_class
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.record.continuing import begun
from nnunetv2_mstkd.evaluation.record.provenance import describe_model
from nnunetv2_mstkd.evaluation.record.record import EvaluatedCase, EvaluationRecord, Session
from nnunetv2_mstkd.evaluation.record.score_store import ScoreStore
from nnunetv2_mstkd.evaluation.scoring.evaluator import (
    Evaluator,
    Task,
    TaskReport,
    open_tasks,
    output_of,
)
from nnunetv2_mstkd.evaluation.scoring.given_predictions import Predictions, find_predictions
from nnunetv2_mstkd.evaluation.scoring.jobs import Criteria, FileJob, Runner, runner
from nnunetv2_mstkd.evaluation.scoring.label_files import LabelFile
from nnunetv2_mstkd.evaluation.scoring.reference_cases import (
    ReferenceCase,
    folder_cases,
    training_cases,
)
from nnunetv2_mstkd.inference.folder import Part, check_folders
from nnunetv2_mstkd.inference.predictor import MissingModalityPredictor
from nnunetv2_mstkd.modalities import Subset
from nnunetv2_mstkd.models.folder import Fold, ModelFolder
from nnunetv2_mstkd.models.loading import checked_device

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
    evaluated, unreadable = _evaluated_cases(cases)
    cases, problems = [case for case in cases if case.name in evaluated], {**problems, **unreadable}
    inference = {"step_size": arguments.step_size, "mirroring": not arguments.disable_tta}
    session = begun(model_command(argv, arguments, model, checked))
    record = new_record(
        arguments,
        model.dataset_json,
        evaluated,
        subsets,
        session,
        model=describe_model(model, checked, arguments.chk, inference),
        dataset=str(model.plans.get("dataset_name", "")),
    )
    part = Part(arguments.part_id, arguments.num_parts)
    tasks = open_tasks(cases[part.index :: part.count], subsets, model.modalities, ScoreStore(arguments.o))
    predicted, left = _by_whether_predicted(tasks, arguments.o, model.file_ending)
    if left:
        checked_device(arguments.device)  # refuses before anything is written, as does the runner
    with runner(arguments.executor if tasks else None) as run:
        record = open_folder(arguments.o, record)

        def work() -> dict[str, str]:
            evaluator = Evaluator(
                arguments.o, criteria_of(record), ScoreStore(arguments.o), run if arguments.executor else None
            )
            found = _score(evaluator, model, predicted, run, arguments, progress)
            return found | _predict_and_score(evaluator, model, checked, left, arguments, progress)

        return _worked(record, session, arguments.o, tasks, problems, work)


def _evaluated_cases(cases: Sequence[ReferenceCase]) -> tuple[dict[str, EvaluatedCase], dict[str, str]]:
    """What the record says of each case, and which cannot be read, and why."""
    evaluated, problems = {}, {}
    for case in cases:
        try:
            evaluated[case.name] = evaluated_case(case)
        except MSTKDError as error:
            problems[case.name] = str(error)
    if problems and not evaluated:
        raise MSTKDError(next(iter(problems.values())))
    return evaluated, problems


def _worked(
    record: EvaluationRecord,
    session: Session,
    folder: Path,
    tasks: Sequence[Task],
    problems: Mapping[str, str],
    work: Callable[[], Mapping[str, str]],
) -> Evaluated:
    """Work under a session of the record, which says in the end how much it added, however it ends."""

    def ended() -> Session:
        scored = ScoreStore(folder).count((task.case.name, task.name) for task in tasks)
        return replace(session, scored=scored)

    if tasks:
        note_session(record, session, folder)
        try:
            problems = {**problems, **work()}
        except BaseException:
            note_session(record, ended(), folder)
            raise
    return Evaluated(record, ended(), dict(problems))


def _by_whether_predicted(
    tasks: Iterable[Task], folder: Path, file_ending: str
) -> tuple[list[tuple[Task, Path]], list[Task]]:
    """What a stopped run has predicted but not scored, with the files; and what is still to be predicted."""
    predicted, left = [], []
    for task in tasks:
        path = output_of(folder, task.name, file_ending).target(task.case.name)
        predicted.append((task, path)) if path.is_file() else left.append(task)
    return predicted, left


def criteria_of(record: EvaluationRecord) -> Criteria:
    """What an evaluation scores."""
    return Criteria(record.regions, record.ignore, record.lesionwise)


def _cases(
    arguments: argparse.Namespace, model: ModelFolder, fold: Fold
) -> tuple[list[ReferenceCase], dict[str, str]]:
    if arguments.cases in ("val", "all"):
        if arguments.labels is not None or arguments.source_labels:
            flag = "--source_labels" if arguments.labels is None else "--labels"
            raise MSTKDError(f"{flag} belongs to --cases FOLDER; training cases have their references")
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


def _score(
    evaluator: Evaluator,
    model: ModelFolder,
    predicted: Sequence[tuple[Task, Path]],
    run: Runner,
    arguments: argparse.Namespace,
    progress: Progress,
) -> dict[str, str]:
    """Score what a stopped run has predicted."""
    if not predicted:
        return {}
    reader = reader_class(model.dataset_json, predicted[0][1])
    jobs = [
        (task, FileJob(LabelFile(path.absolute()), task.case, evaluator.criteria, reader))
        for task, path in predicted
    ]
    reports = evaluator.score_files(jobs, run, threads=run.at_once or arguments.nps)
    return progress(len(jobs), reports, disable=arguments.disable_progress_bar)


def _predict_and_score(
    evaluator: Evaluator,
    model: ModelFolder,
    folds: Sequence[Fold],
    tasks: Sequence[Task],
    arguments: argparse.Namespace,
    progress: Progress,
) -> dict[str, str]:
    if not tasks:
        return {}
    predictor = MissingModalityPredictor.load(model, folds=folds, **loading_options(arguments))
    predictor.warn_if_not_trained_for(sum(len(task.subset) < len(model.modalities) for task in tasks))
    reports = evaluator.predict_and_score(predictor, tasks, readers=arguments.npp, writers=arguments.nps)
    return progress(len(tasks), reports, disable=arguments.disable_progress_bar, verbose=arguments.verbose)


def score_predictions(arguments: argparse.Namespace, argv: Sequence[str], progress: Progress) -> Evaluated:
    """Score segmentations that are there already."""
    if arguments.labels is None:
        raise MSTKDError("--predictions needs --labels FOLDER, with CASE and the data set's file ending")
    if arguments.d or arguments.m:
        raise MSTKDError("--predictions needs no model; leave -d and -m away")
    for given in (arguments.predictions, arguments.labels):
        check_folders(given, arguments.o)
    subsets = () if arguments.subsets == ["all"] else _split(arguments.subsets)
    found = find_predictions(arguments.predictions, subsets)
    scored = found.tasks(arguments.labels, source_labels=arguments.source_labels)
    session = begun(typed_command(argv))
    record = _record_of(arguments, found, scored, session)
    part = Part(arguments.part_id, arguments.num_parts)
    store, reader = ScoreStore(arguments.o), reader_class(found.dataset_json, scored[0][1])
    stored = {name: store.read(name) for name in sorted(record.cases)[part.index :: part.count]}
    jobs = [
        (task, FileJob(LabelFile(path.absolute(), found.label_map), task.case, criteria_of(record), reader))
        for task, path in scored
        if task.case.name in stored and not stored[task.case.name].settled(task.name)
    ]
    with runner(arguments.executor if jobs else None) as run:
        record = open_folder(arguments.o, record)

        def work() -> dict[str, str]:
            evaluator = Evaluator(arguments.o, criteria_of(record), store)
            reports = evaluator.score_files(jobs, run, threads=run.at_once or arguments.nps)
            return progress(len(jobs), reports, disable=arguments.disable_progress_bar)

        return _worked(record, session, arguments.o, [task for task, _ in jobs], {}, work)


def _record_of(
    arguments: argparse.Namespace,
    found: Predictions,
    scored: Sequence[tuple[Task, Path]],
    session: Session,
) -> EvaluationRecord:
    files: dict[str, dict[str, Path]] = {}
    for task, path in scored:
        files.setdefault(task.case.name, {})[task.name] = path
    cases = {task.case.name: task.case for task, _ in scored}
    folder = arguments.predictions.resolve()
    # More cases may come: the folder is the model, and each file's digest tells whether it has changed.
    identity = hashlib.sha256(str(folder).encode(errors="surrogateescape")).hexdigest()
    return new_record(
        arguments,
        found.dataset_json,
        {name: evaluated_case(case, files[name]) for name, case in cases.items()},
        {task.subset for task, _ in scored},
        session,
        model={"id": identity, "name": folder.name, "folder": str(folder)},
        dataset=str(found.dataset_json.get("name", "")),
        predictions=found.folders(arguments.o),
        prediction_label_map=found.label_map,
    )


def _split(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for text in texts for part in text.split(",") if part.strip())
