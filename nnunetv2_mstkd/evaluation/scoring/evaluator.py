"""Predicting and scoring every case under every subset, each piece of work once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_mstkd.evaluation.record.record import PREDICTIONS
from nnunetv2_mstkd.evaluation.record.score_store import ScoreStore, SubsetScores
from nnunetv2_mstkd.evaluation.scoring.jobs import Criteria, FileJob, Runner
from nnunetv2_mstkd.evaluation.scoring.label_files import LabelFile
from nnunetv2_mstkd.evaluation.scoring.open_cases import OpenCase, OpenCases
from nnunetv2_mstkd.evaluation.scoring.reference_cases import ReferenceCase
from nnunetv2_mstkd.files import writable_folder
from nnunetv2_mstkd.inference.folder import one_line
from nnunetv2_mstkd.inference.pipeline import Outcome, concurrently, staged
from nnunetv2_mstkd.inference.predictor import MissingModalityPredictor, Prediction, Preprocessed
from nnunetv2_mstkd.inference.writing import Output, write_model_files, write_segmentation
from nnunetv2_mstkd.modalities import Subset, format_subset

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """One case under one subset.

    Attributes:
        case: with its reference.
        subset: the modalities to use.
        name: of the subset, as ``format_subset`` prints it.
    """

    case: ReferenceCase
    subset: Subset
    name: str


@dataclass(frozen=True)
class TaskReport:
    """How a task ended: scored, impossible (the case lacks a modality), or with a line that says why not."""

    task: Task
    impossible: bool = False
    problem: str | None = None


def open_tasks(
    cases: Sequence[ReferenceCase], subsets: Sequence[Subset], modalities: Sequence[str], store: ScoreStore
) -> list[Task]:
    """List what is left to do, case by case."""
    tasks = []
    for case in cases:
        known = store.read(case.name)
        names = [(subset, format_subset(subset, modalities)) for subset in subsets]
        tasks += [Task(case, subset, name) for subset, name in names if not known.settled(name)]
    return tasks


def output_of(folder: Path, subset: str, file_ending: str) -> Output:
    """Return where the segmentations under one subset go."""
    return Output(folder / PREDICTIONS / subset, file_ending)


class Evaluator:
    """Predicts and scores tasks of one model into one folder."""

    def __init__(
        self,
        folder: Path,
        criteria: Criteria,
        store: ScoreStore,
        run: Runner | None = None,
    ) -> None:
        """Keep what all tasks share.

        Args:
            folder: of the evaluation.
            criteria: what is scored.
            store: where scores go.
            run: scores files elsewhere; None scores arrays here, beside the network.
        """
        self.folder = folder.absolute()  # a cluster's workers run elsewhere
        self.criteria = criteria
        self.store = store
        self._run = run

    def predict_and_score(
        self,
        predictor: MissingModalityPredictor,
        tasks: Sequence[Task],
        *,
        readers: int = 3,
        writers: int = 3,
    ) -> Iterator[TaskReport]:
        """Predict tasks, write the segmentations and score them; one report each as they end.

        Each case is read and preprocessed once. Reading, writing and scoring run beside the network. The
        work is done as reports are taken.
        """
        ending = predictor.model.file_ending
        for name in dict.fromkeys(task.name for task in tasks):
            output = output_of(self.folder, name, ending)
            writable_folder(output.folder)
            write_model_files(output, predictor.model)
        opened = OpenCases(predictor, (task.case.name for task in tasks), self.criteria.known)
        work = _Work(self, predictor, opened)
        outcomes = staged(tasks, work.read, work.logits, work.write, readers=readers, writers=writers)
        for outcome in outcomes:
            opened.done(outcome.item.case)
            yield _report(outcome)

    def score_files(
        self, jobs: Sequence[tuple[Task, FileJob]], run: Runner, *, threads: int = 3
    ) -> Iterator[TaskReport]:
        """Score segmentations that are there already."""

        def score(item: tuple[Task, FileJob]) -> bool:
            task, job = item
            self.store.add(task.case.name, task.name, run(job))
            return True

        for outcome in concurrently(jobs, score, threads=threads):
            yield _report(Outcome(outcome.item[0], outcome.result, outcome.error))

    def score(self, opened: OpenCase, task: Task, segmentation: Any, reader: type, path: Path) -> None:
        """Score what was just predicted and store it."""
        scores: SubsetScores
        if self._run is not None:
            scores = self._run(FileJob(LabelFile(path), task.case, self.criteria, reader))
        else:
            spacing = tuple(float(length) for length in segmentation.properties["spacing"])
            scores = self.criteria.score(segmentation.array, opened.reference(), spacing)
        self.store.add(task.case.name, task.name, scores)


@dataclass
class _Step:
    """A task on its way through the pipeline; nothing to compute where the case lacks a modality."""

    task: Task
    opened: OpenCase
    volumes: Preprocessed | None = None
    prediction: Prediction | None = None


class _Work:
    """The stages of the pipeline."""

    def __init__(self, evaluator: Evaluator, predictor: MissingModalityPredictor, opened: OpenCases) -> None:
        self.evaluator, self.predictor, self.opened = evaluator, predictor, opened

    def read(self, task: Task) -> _Step:
        step = _Step(task, self.opened.get(task.case))
        available = step.opened.available()
        if not task.subset <= available:
            lacking = [name for name in self.predictor.modalities if name not in available]
            self.evaluator.store.mark_impossible(task.case.name, [task.name], lacking)
            return step
        step.opened.reference()  # a bad reference costs no prediction
        step.volumes = step.opened.preprocessed(task.subset)
        return step

    def logits(self, step: _Step) -> _Step:
        if step.volumes is not None:
            step.prediction, step.volumes = self.predictor.logits(step.volumes), None
        return step

    def write(self, step: _Step) -> bool:
        """Write and score a prediction; say whether there was one."""
        if step.prediction is None:
            return False
        task, model = step.task, self.predictor.model
        reader = self.predictor.predictor.plans_manager.image_reader_writer_class
        segmentation = self.predictor.segmentation(step.prediction)
        step.prediction = None
        output = output_of(self.evaluator.folder, task.name, model.file_ending)
        segmentation = write_segmentation(segmentation, output, model, reader())
        self.evaluator.score(step.opened, task, segmentation, reader, output.target(task.case.name))
        return True


def _report(outcome: Outcome[Task, bool]) -> TaskReport:
    if outcome.error is None:
        return TaskReport(outcome.item, impossible=not outcome.result)
    logger.debug("%s with %s", outcome.item.case.name, outcome.item.name, exc_info=outcome.error)
    return TaskReport(outcome.item, problem=one_line(outcome.error))
