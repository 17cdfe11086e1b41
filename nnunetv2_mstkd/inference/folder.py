"""Segmenting a folder of cases."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunetv2_mstkd.datasets.discovery import Case, discover
from nnunetv2_mstkd.datasets.input_rules import InputRules
from nnunetv2_mstkd.datasets.labels import to_source_labels
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.inference.pipeline import Outcome, staged
from nnunetv2_mstkd.inference.records import read_records
from nnunetv2_mstkd.inference.writing import SOURCE_LABELS_KEY, Output, write_model_files, write_segmentation
from nnunetv2_mstkd.models.folder import ModelFolder
from nnunetv2_mstkd.trust import Expectations

if TYPE_CHECKING:
    from nnunetv2_mstkd.inference.predictor import (
        MissingModalityPredictor,
        Prediction,
        Preprocessed,
        Segmentation,
    )

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """One of several runs that share a folder of cases, counted from 0."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        """Refuse a part that is not one.

        Raises:
            MSTKDError: the index is not in 0 to count - 1.
        """
        if not 0 <= self.index < self.count:
            raise MSTKDError(
                f"part {self.index} of {self.count} does not exist: -part_id goes from 0 to num_parts - 1"
            )


@dataclass(frozen=True)
class Work:
    """What there is to do: cases by name, cases that cannot be done and why, and how many are done.

    Attributes:
        cases: to be segmented.
        problems: case → why it cannot be.
        finished: how many have been segmented before.
        finished_cases: those of them whose images are still as they should be.
    """

    cases: tuple[Case, ...]
    problems: Mapping[str, str]
    finished: int = 0
    finished_cases: tuple[Case, ...] = ()


@dataclass(frozen=True)
class CaseReport:
    """How one case ended: with a segmentation, or with one line that says why not."""

    name: str
    segmentation: Segmentation | None = None
    problem: str | None = None


def _check_listed_files(source: Path, cases: Iterable[Case], output: Path) -> None:
    """A table may list files of any folder; none of them may be that of the output."""
    if source.is_dir():
        return
    for path in (path for case in cases for path in case.images.values()):
        if path.parent.resolve() == output.resolve():
            raise MSTKDError(f"{path} is read and lies in the output {output}; choose another folder")


def check_source_labels(model: ModelFolder) -> None:
    """See whether the model knows its source's label values.

    Raises:
        MSTKDError: it does not.
    """
    to_source_labels(np.zeros(1, dtype=np.uint8), model.dataset_json)


def find_work(
    source: Path,
    model: ModelFolder,
    output: Output,
    *,
    part: Part = Part(),
    skip_finished: bool = False,
    rules: InputRules | None = None,
) -> Work:
    """Look for cases; nothing is written.

    Args:
        source: in one of the layouts of :func:`nnunetv2_mstkd.datasets.discovery.discover`.
        part: cases are dealt out in order of their names, bad ones included, so every part deals alike.
        skip_finished: leave out cases whose files are in the output folder.
        rules: how to read names that do not tell.

    Raises:
        MSTKDError: no usable source, a listed file lies where segmentations go, or finished cases carry label
            values of the other convention.
    """
    found = discover(source, model.modalities, file_ending=model.file_ending, rules=rules)
    _check_listed_files(source, found.cases, output.folder)
    names = sorted([*(case.name for case in found.cases), *found.problems])
    mine = set(names[part.index :: part.count])
    finished = {name for name in mine if skip_finished and output.is_finished(name)}
    for name, entry in read_records(output.folder).items() if finished else ():
        if name in finished and bool(entry.get(SOURCE_LABELS_KEY)) != output.source_labels:
            raise MSTKDError(
                f"{output.folder} has {name} in the other label convention; give --source_labels as in the"
                " first run, or another folder"
            )
    return Work(
        cases=tuple(case for case in found.cases if case.name in mine - finished),
        problems={name: reason for name, reason in found.problems.items() if name in mine},
        finished=len(finished),
        finished_cases=tuple(case for case in found.cases if case.name in finished),
    )


def segment_cases(
    predictor: MissingModalityPredictor,
    cases: Iterable[Case],
    output: Output,
    *,
    wanted: Collection[str] | None = None,
    previous_stage: Path | None = None,
    readers: int = 3,
    writers: int = 3,
    beside: Callable[[Case, Segmentation, Path], None] | None = None,
    known: Expectations | None = None,
) -> Iterator[CaseReport]:
    """Segment cases and write them, one report each as they end (the work is done as reports are taken).

    Args:
        output: its folder exists.
        wanted: use only these modalities.
        previous_stage: folder with the segmentations of a cascade's previous stage.
        readers: threads that read and preprocess, and how many cases they may be ahead.
        writers: threads that resample and write.
        beside: called in one of these threads with a case, its segmentation and the file of that, which is
            complete but has not its name yet: for what else is to be there once the segmentation is.
        known: of the model's quality; what is expected of each case goes into its record.

    Raises:
        MSTKDError: ``previous_stage`` is missing for a cascade, or given for another model.
    """
    _check_cascade(predictor, previous_stage)
    cases, wanted = list(cases), frozenset(wanted or predictor.modalities)
    by_name = {case.name: case for case in cases}
    seen = [wanted.intersection(case.images) for case in cases]
    predictor.warn_if_not_trained_for(sum(len(names) < len(predictor.modalities) for names in seen))
    write_model_files(output, predictor.model)

    def read(case: Case) -> Preprocessed:
        segmentation = previous_stage / f"{case.name}{output.file_ending}" if previous_stage else None
        return predictor.preprocess(predictor.read(case, wanted, segmentation))

    def write(prediction: Prediction) -> Segmentation:
        result = predictor.segmentation(prediction, probabilities=output.probabilities)
        result = result if known is None else predictor.judged(result, known)
        writer = predictor.predictor.plans_manager.image_reader_writer_class()
        case = by_name[prediction.name]
        more = None if beside is None else partial(beside, case)
        return write_segmentation(result, output, predictor.model, writer, more)

    outcomes = staged(cases, read, predictor.logits, write, readers=readers, writers=writers)
    return (_report(outcome) for outcome in outcomes)


def _check_cascade(predictor: MissingModalityPredictor, previous_stage: Path | None) -> None:
    name = predictor.previous_stage_name
    if name is not None and previous_stage is None:
        raise MSTKDError(
            f"this model refines segmentations of {name}: predict with that first, then give its folder as"
            " -prev_stage_predictions"
        )
    if name is None and previous_stage is not None:
        raise MSTKDError("-prev_stage_predictions is for cascades; this model has no previous stage")
    if previous_stage is not None and not previous_stage.is_dir():
        raise MSTKDError(f"-prev_stage_predictions: no folder {previous_stage}")
    if previous_stage is not None:
        _check_convention(previous_stage)


def _check_convention(previous_stage: Path) -> None:
    """The next stage knows the data set's own label values only."""
    entries = read_records(previous_stage)
    other = sorted(name for name, entry in entries.items() if entry.get(SOURCE_LABELS_KEY))
    if other:
        raise MSTKDError(
            f"-prev_stage_predictions: {previous_stage} has {other[0]} in the label values of the data set's"
            " source; predict that stage again without --source_labels"
        )


def _report(outcome: Outcome[Case, Segmentation]) -> CaseReport:
    if outcome.error is None:
        return CaseReport(outcome.item.name, segmentation=outcome.result)
    logger.debug("case %s", outcome.item.name, exc_info=outcome.error)
    return CaseReport(outcome.item.name, problem=one_line(outcome.error))


def one_line(error: Exception) -> str:
    """What to tell of an exception."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
    text = " ".join(str(error).split())
    return text if isinstance(error, MSTKDError) else f"{type(error).__name__}: {text or 'no message'}"
