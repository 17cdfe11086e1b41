"""``evaluate``: predict and score every case under every subset of its modalities."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunetv2_mstkd.datasets.raw_images import reader_class
from nnunetv2_mstkd.datasets.regions import regions_of
from nnunetv2_mstkd.engines import check_engine
from nnunetv2_mstkd.environment import quiet
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.metrics.regions import ignore_label, summary_keys
from nnunetv2_mstkd.evaluation.record.continuing import (
    listed_session,
    new_session,
    open_folder,
    table_order,
)
from nnunetv2_mstkd.evaluation.record.provenance import describe_model
from nnunetv2_mstkd.evaluation.record.record import EvaluatedCase, Evaluation, EvaluationRecord, Session
from nnunetv2_mstkd.evaluation.record.score_store import ScoreStore
from nnunetv2_mstkd.evaluation.record.tables_of_scores import collect
from nnunetv2_mstkd.evaluation.scoring.evaluator import (
    Evaluator,
    Task,
    TaskReport,
    open_tasks,
    output_of,
)
from nnunetv2_mstkd.evaluation.scoring.given_predictions import find_predictions
from nnunetv2_mstkd.evaluation.scoring.jobs import Criteria, FileJob, runner
from nnunetv2_mstkd.evaluation.scoring.label_files import LabelFile
from nnunetv2_mstkd.evaluation.scoring.reference_cases import (
    ReferenceCase,
    evaluated_case,
    folder_cases,
    training_cases,
)
from nnunetv2_mstkd.evaluation.scoring.request import ALL, VALIDATION, EvaluationRequest
from nnunetv2_mstkd.files import check_folders
from nnunetv2_mstkd.inference.predictor import MissingModalityPredictor
from nnunetv2_mstkd.modalities import Subset, format_subset
from nnunetv2_mstkd.models.folder import Fold, ModelFolder, dataset_modalities, open_model_folder
from nnunetv2_mstkd.models.loading import checked_device

logger = logging.getLogger(__name__)

# Opened with the number of tasks; what it yields is called with each report as it comes.
Watch = Callable[[int], AbstractContextManager[Callable[[TaskReport], None]]]


@dataclass(frozen=True)
class Evaluated:
    """The result of ``evaluate``.

    Attributes:
        evaluation: the folder, its record and its table of metrics, of everything that any call has scored.
        scored: how many cases under subsets have scores.
        impossible: how many can have none: their cases lack modalities.
        missing: how many are still to be scored; the tables are without them.
        problems: case and subset → one line that says why it failed in this call.
    """

    evaluation: Evaluation
    scored: int
    impossible: int
    missing: int
    problems: Mapping[str, str]


@dataclass(frozen=True)
class _Work:
    """What one call has to do.

    Attributes:
        record: of the evaluation, with the cases of every part.
        session: the call.
        files: segmentations that are there and have no scores.
        unpredicted: what is to be predicted and scored, by ``model`` and ``folds``.
        problems: cases that cannot be used, and why.
    """

    record: EvaluationRecord
    session: Session
    files: Sequence[tuple[Task, FileJob]]
    unpredicted: Sequence[Task] = ()
    model: ModelFolder | None = None
    folds: Sequence[Fold] = ()
    problems: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def _unwatched(total: int) -> Iterator[Callable[[TaskReport], None]]:
    yield lambda report: None


def evaluate(request: EvaluationRequest, watch: Watch = _unwatched) -> Evaluated:
    """Score a model, or segmentations that are there already; write tables of all that is scored.

    Finished work is not done again: the same request goes on where a call was stopped.

    Args:
        watch: shows progress.

    Raises:
        MSTKDError: the request cannot be met; a case that fails is listed in the result instead.
    """
    folder = Path(request.output)
    work = _work_of_model(request) if request.predictions is None else _work_of_predictions(request)
    tasks = [*(task for task, _ in work.files), *work.unpredicted]
    problems = dict(work.problems)
    with runner(request.executor if tasks else None) as run:
        record = open_folder(folder, work.record)
        with listed_session(record, work.session, folder, [(task.case.name, task.name) for task in tasks]):
            evaluator = Evaluator(
                folder, _criteria(record), ScoreStore(folder), run if request.executor else None
            )
            if work.files:
                reports = evaluator.score_files(work.files, run, threads=run.at_once or request.writers)
                problems |= _watched(reports, len(work.files), watch)
            if work.unpredicted and work.model is not None:
                predictor = _predictor(request, work.model, work.folds)
                incomplete = sum(len(t.subset) < len(work.model.modalities) for t in work.unpredicted)
                predictor.warn_if_not_trained_for(incomplete)
                reports = evaluator.predict_and_score(
                    predictor, work.unpredicted, readers=request.readers, writers=request.writers
                )
                problems |= _watched(reports, len(work.unpredicted), watch, silent=not request.verbose)
    return Evaluated(*collect(record, folder), problems=problems)


def _watched(
    reports: Iterable[TaskReport], total: int, watch: Watch, *, silent: bool = False
) -> dict[str, str]:
    """Take reports as they come; return what failed, and why."""
    failed: dict[tuple[str, str], list[str]] = {}
    with watch(total) as show, quiet(silent):
        for report in reports:
            show(report)
            if report.problem is not None:
                failed.setdefault((report.task.case.name, report.problem), []).append(report.task.name)
    return {
        f"{case} {names[0]}" if len(names) == 1 else f"{case} ({len(names)} subsets)": problem
        for (case, problem), names in failed.items()
    }


def _predictor(
    request: EvaluationRequest, model: ModelFolder, folds: Sequence[Fold]
) -> MissingModalityPredictor:
    return MissingModalityPredictor.load(
        model,
        folds=folds,
        checkpoint_name=request.checkpoint,
        device=request.chosen_device,
        engine=request.engine,
        step_size=request.step_size,
        mirroring=request.mirroring,
        everything_on_device=request.everything_on_device,
        verbose=request.verbose,
        trust_checkpoint=request.trust_checkpoint,
    )


def _work_of_model(request: EvaluationRequest) -> _Work:
    """Find what is to be predicted, and what a stopped call has predicted but not scored."""
    model, folder = open_model_folder(Path(str(request.model))), Path(request.output)
    wanted, subsets = request.chosen_folds, request.chosen_subsets(model.modalities)
    if request.cases == VALIDATION and (wanted is None or len(wanted) != 1):
        raise MSTKDError("--cases val needs one fold, whose validation cases they are: give -f FOLD")
    folds = model.folds(wanted, request.checkpoint)
    cases, problems = _cases(request, model, folds[0])
    _refuse_cascade(model)
    evaluated, unreadable = _evaluated_cases(cases)
    cases = [case for case in cases if case.name in evaluated]
    session = new_session(request.command(folds))
    inference = {"step_size": request.step_size, "mirroring": request.mirroring}
    record = _record(
        request,
        session,
        model.dataset_json,
        evaluated,
        subsets,
        model=describe_model(model, folds, request.checkpoint, inference),
        dataset=str(model.plans.get("dataset_name", "")),
    )
    part = request.part
    tasks = open_tasks(cases[part.index :: part.count], subsets, model.modalities, ScoreStore(folder))
    paths = [output_of(folder, task.name, model.file_ending).target(task.case.name) for task in tasks]
    predicted = [(task, path) for task, path in zip(tasks, paths, strict=True) if path.is_file()]
    unpredicted = [task for task, path in zip(tasks, paths, strict=True) if not path.is_file()]
    if unpredicted:
        # Refuse before anything is written.
        check_engine(request.engine, checked_device(request.chosen_device))
    files = _file_jobs(predicted, record, model.dataset_json)
    return _Work(record, session, files, unpredicted, model, folds, {**problems, **unreadable})


def _cases(
    request: EvaluationRequest, model: ModelFolder, fold: Fold
) -> tuple[list[ReferenceCase], dict[str, str]]:
    """Return the cases to be scored, and which cannot be used and why."""
    if request.cases == ALL:
        logger.warning(
            "--cases all takes the cases that the model was trained on too; its scores there say nothing"
            " about new cases"
        )
    if request.of_training:
        return training_cases(model, fold if request.cases == VALIDATION else None), {}
    source, labels = Path(request.cases), None if request.labels is None else Path(request.labels)
    check_folders(source, Path(request.output))
    return folder_cases(source, model, labels, source_labels=request.source_labels, rules=request.input_rules)


def _refuse_cascade(model: ModelFolder) -> None:
    previous = model.plans["configurations"].get(model.configuration, {}).get("previous_stage")
    if previous:
        raise MSTKDError(
            f"{model.configuration} refines segmentations of {previous}: predict each subset with both"
            " (predict --modalities), then give --predictions FOLDER"
        )


def _evaluated_cases(cases: Sequence[ReferenceCase]) -> tuple[dict[str, EvaluatedCase], dict[str, str]]:
    """Describe each case for the record; return also which cannot be read, and why."""
    evaluated, problems = {}, {}
    for case in cases:
        try:
            evaluated[case.name] = evaluated_case(case)
        except MSTKDError as error:
            problems[case.name] = str(error)
    if problems and not evaluated:
        raise MSTKDError(next(iter(problems.values())))
    return evaluated, problems


def _work_of_predictions(request: EvaluationRequest) -> _Work:
    """Find the segmentations that are there and have no scores yet."""
    folder = Path(request.output)
    predictions, labels = Path(str(request.predictions)), Path(str(request.labels))
    for given in (predictions, labels):
        check_folders(given, folder)
    found = find_predictions(predictions, () if request.subset_names == (ALL,) else request.subset_names)
    scored = found.tasks(labels, source_labels=request.source_labels)
    of_case: dict[str, dict[str, Path]] = {}
    for task, path in scored:
        of_case.setdefault(task.case.name, {})[task.name] = path
    cases = {task.case.name: task.case for task, _ in scored}
    place = predictions.resolve()
    # More cases may come: the folder is the model, and each file's digest tells whether it has changed.
    identity = hashlib.sha256(str(place).encode(errors="surrogateescape")).hexdigest()
    session = new_session(request.command())
    record = _record(
        request,
        session,
        found.dataset_json,
        {name: evaluated_case(case, of_case[name]) for name, case in cases.items()},
        [task.subset for task, _ in scored],
        model={"id": identity, "name": place.name, "folder": str(place)},
        dataset=str(found.dataset_json.get("name", "")),
        predictions=found.folders(folder),
        prediction_label_map=found.label_map,
    )
    store, part = ScoreStore(folder), request.part
    stored = {name: store.read(name) for name in sorted(record.cases)[part.index :: part.count]}
    unscored = [
        (task, path)
        for task, path in scored
        if task.case.name in stored and not stored[task.case.name].settled(task.name)
    ]
    return _Work(record, session, _file_jobs(unscored, record, found.dataset_json))


def _record(
    request: EvaluationRequest,
    session: Session,
    dataset_json: Mapping[str, Any],
    cases: Mapping[str, EvaluatedCase],
    subsets: Iterable[Subset],
    **others: Any,
) -> EvaluationRecord:
    """Return the record of what a call evaluates; ``others`` are fields of :class:`EvaluationRecord`."""
    modalities = dataset_modalities(dataset_json)
    return EvaluationRecord(
        modalities=modalities,
        regions=regions_of(dataset_json),
        subsets=table_order(modalities, {format_subset(subset, modalities) for subset in subsets}),
        cases=cases,
        policy=request.policy,
        lesionwise=request.rules,
        file_ending=str(dataset_json["file_ending"]),
        command=session.command,
        versions=session.versions,
        git=session.git,
        region_keys=summary_keys(dataset_json),
        ignore=ignore_label(dataset_json),
        **others,
    )


def _criteria(record: EvaluationRecord) -> Criteria:
    return Criteria(record.regions, record.ignore, record.lesionwise)


def _file_jobs(
    files: Sequence[tuple[Task, Path]], record: EvaluationRecord, dataset_json: Mapping[str, Any]
) -> list[tuple[Task, FileJob]]:
    """Return the jobs that score segmentations of one data set."""
    if not files:
        return []
    criteria, reader = _criteria(record), reader_class(dataset_json, files[0][1])
    return [
        (task, FileJob(LabelFile(path.absolute(), record.prediction_label_map), task.case, criteria, reader))
        for task, path in files
    ]
