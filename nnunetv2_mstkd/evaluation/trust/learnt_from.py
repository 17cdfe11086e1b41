"""Which cases a fold has learnt from: nothing may be said of a model's quality by those."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2_mstkd.datasets.formats import patient_of
from nnunetv2_mstkd.datasets.unlabelled import unlabelled_cases
from nnunetv2_mstkd.environment import dataset_folder, nnunet_folder
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.record.record import Evaluation
from nnunetv2_mstkd.files import read_json
from nnunetv2_mstkd.models.folder import Fold, ModelFolder
from nnunetv2_mstkd.models.starting_weights import checkpoint_of
from nnunetv2_mstkd.settings import TEACHERS

logger = logging.getLogger(__name__)

BY_SPLIT, BY_WORD = "splits_final.json", "the user's word (--held_out)"


def check_not_learnt_from(
    model: ModelFolder, evaluations: Sequence[Evaluation], *, held_out: bool = False
) -> str:
    """Refuse evaluations with cases that their own folds were trained on.

    Args:
        held_out: the user states that no case was; asked for where the split is not here to look at.

    Returns:
        What says so: ``BY_SPLIT`` or ``BY_WORD``.

    Raises:
        MSTKDError: a case was learnt from, or the split is not here and nobody states it.
    """
    by_word = False
    for evaluation in evaluations:
        folds = evaluation.record.model["folds"]
        borrowed = _other_folds(evaluation.record.model.get("settings") or {}, folds)
        if borrowed is not None:
            if not held_out:
                raise MSTKDError(
                    f"{evaluation.folder}: the model learnt from {borrowed}, which may have seen these cases;"
                    " if it has not, say so with --held_out"
                )
            by_word = True
        learnt = training_cases_of(model, folds)
        if learnt is None:
            if not held_out:
                raise MSTKDError(
                    f"no telling whether {evaluation.folder} has cases that folds"
                    f" {' '.join(map(str, folds))} were trained on: their split is not in"
                    " nnUNet_preprocessed; if none was, say so with --held_out"
                )
            by_word = True
            continue
        _check(model, evaluation, learnt)
    return BY_WORD if by_word else BY_SPLIT


def _other_folds(settings: Mapping[str, Any], folds: Sequence[Fold]) -> str | None:
    """Name the fold of a teacher or of starting weights that is not the fold itself; None for no such.

    Args:
        settings: of the model's plans.
    """
    for what in ("teacher", "init"):
        source, fold, checkpoint = (settings.get(f"{what}{part}") for part in ("", "_fold", "_checkpoint"))
        if source is None or source in TEACHERS:
            continue
        for own in folds:
            try:
                file = checkpoint_of(Path(source), fold, own, checkpoint)
            except MSTKDError:  # it is not here any more: what is written counts
                taken = f"fold_{own if fold is None else fold}"
            else:
                taken = file.parent.name
            if taken.startswith("fold_") and taken != f"fold_{own}":
                return f"{taken} of {source}"
    return None


def _check(model: ModelFolder, evaluation: Evaluation, learnt: Collection[str]) -> None:
    cases = evaluation.record.cases
    shared = sorted(set(cases) & set(learnt))
    if shared:
        folds = " ".join(map(str, evaluation.record.model["folds"]))
        raise MSTKDError(
            f"{len(shared)} of {len(cases)} cases of {evaluation.folder} were trained on by fold(s) {folds}"
            f" (first: {shared[0]}): they say nothing about new cases; evaluate each fold on its own with"
            " --cases val, or other cases"
        )
    patients = {patient_of(case, model.dataset_json) for case in learnt}
    known = sorted(name for name, case in cases.items() if case.patient in patients)
    if known:
        logger.warning(
            "%d case(s) of %s are of patients whose other cases were trained on (first: %s): the model may do"
            " better there than on new patients",
            len(known),
            evaluation.folder,
            known[0],
        )


def training_cases_of(model: ModelFolder, folds: Sequence[Fold]) -> frozenset[str] | None:
    """Return the cases that any of the folds learnt from; None where the split is not here to be looked at.

    Fold ``all`` learns from every case of the data set. Cases without a segmentation are in no split.
    """
    folder = _preprocessed(model)
    if folder is None:
        return None
    learnt = set(unlabelled_cases(model.dataset_json))
    for fold in folds:
        found = _whole_data_set(folder, model.file_ending) if fold == "all" else _split(folder, fold, "train")
        if not found:
            return None
        learnt |= found
    return frozenset(learnt)


def validation_cases_of(model: ModelFolder, fold: Fold) -> frozenset[str]:
    """Return the cases that a fold is validated on; none where the split is not here, or it is ``all``."""
    folder = _preprocessed(model)
    return frozenset() if folder is None or fold == "all" else frozenset(_split(folder, fold, "val"))


def _preprocessed(model: ModelFolder) -> Path | None:
    try:
        return dataset_folder(nnunet_folder("nnUNet_preprocessed"), str(model.plans.get("dataset_name", "")))
    except MSTKDError:
        return None


def _split(folder: Path, fold: Fold, part: str) -> set[str]:
    path = folder / "splits_final.json"
    splits = read_json(path) if path.is_file() else []
    return set(splits[int(fold)][part]) if int(fold) < len(splits) else set()


def _whole_data_set(folder: Path, ending: str) -> set[str]:
    return {path.name.removesuffix(ending) for path in (folder / "gt_segmentations").glob(f"*{ending}")}
