"""What ``evaluate`` writes down about itself: its record, and the command that does it again."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.metrics.regions import ignore_label, regions_of, summary_keys
from nnunetv2_mstkd.evaluation.record.continuing import table_order, with_earlier_scores, with_session
from nnunetv2_mstkd.evaluation.record.provenance import file_digest, image_digest
from nnunetv2_mstkd.evaluation.record.record import (
    IMAGE_ROLE,
    RECORD_FILE,
    SEGMENTATION_ROLE,
    EvaluatedCase,
    EvaluationRecord,
    Session,
    read_evaluation,
    write_record,
)
from nnunetv2_mstkd.evaluation.record.score_store import ScoreStore
from nnunetv2_mstkd.evaluation.scoring.evaluator import output_of
from nnunetv2_mstkd.evaluation.scoring.reference_cases import ReferenceCase
from nnunetv2_mstkd.files import locked_folder, writable_folder
from nnunetv2_mstkd.modalities import Subset, format_subset
from nnunetv2_mstkd.models.folder import Fold, ModelFolder, dataset_modalities

_SHARING = ("-num_parts", "-part_id")
_DATASET = re.compile(r"Dataset\d{3}_.+")


def typed_command(argv: Sequence[str]) -> str:
    """The command as typed, without which part of the cases it had: one call does what the parts did."""
    kept, skip = [], False
    for word in argv:
        name, _, value = word.partition("=")
        # argparse takes unambiguous beginnings too; -n and -p are none.
        shares = len(name) > 2 and any(flag.startswith(name) for flag in _SHARING)
        if not (skip or shares):
            kept.append(word)
        skip = shares and not value
    return shlex.join(("nnUNetv2_mstkd", "evaluate", *kept))


def model_command(
    argv: Sequence[str], arguments: argparse.Namespace, model: ModelFolder, folds: Sequence[Fold]
) -> str:
    """:func:`typed_command` with the model by name, wherever nnU-Net would find it by that.

    A folder of ``-m`` is of one machine; ``-d``, ``-c``, ``-tr`` and ``-p`` mean the same model wherever
    ``nnUNet_results`` leads to it.
    """
    folder, words = model.path.resolve(), list(argv)
    parts = folder.name.split("__")
    if "-m" in words and len(parts) == 3 and _DATASET.fullmatch(folder.parent.name):
        trainer, plans, configuration = parts
        place = words.index("-m")
        named = ("-d", folder.parent.name, "-c", configuration, "-tr", trainer, "-p", plans)
        words[place : place + 2] = named
        if arguments.f is None:
            words += ("-f", *map(str, folds))
    return typed_command(words)


def new_record(
    arguments: argparse.Namespace,
    dataset_json: Mapping[str, Any],
    cases: Mapping[str, EvaluatedCase],
    subsets: Collection[Subset],
    session: Session,
    *,
    model: Mapping[str, Any],
    dataset: str,
    predictions: Mapping[str, str] | None = None,
    prediction_label_map: Mapping[int, int] | None = None,
) -> EvaluationRecord:
    """The record of what a call evaluates; ``predictions`` as in :class:`EvaluationRecord`."""
    modalities = dataset_modalities(dataset_json)
    return EvaluationRecord(
        model=model,
        dataset=dataset,
        modalities=modalities,
        regions=regions_of(dataset_json),
        subsets=table_order(modalities, {format_subset(subset, modalities) for subset in subsets}),
        cases=cases,
        policy=arguments.policy,
        lesionwise=arguments.lesionwise,
        file_ending=str(dataset_json["file_ending"]),
        command=session.command,
        versions=session.versions,
        git=session.git,
        region_keys=summary_keys(dataset_json),
        predictions=predictions or {},
        prediction_label_map=prediction_label_map,
        ignore=ignore_label(dataset_json),
    )


def evaluated_case(case: ReferenceCase, predictions: Mapping[str, Path] | None = None) -> EvaluatedCase:
    """A case for the record, with the digests by which another file in its place is noticed.

    Args:
        predictions: subset → segmentation, where they were there before; those subsets are the case's.

    Raises:
        MSTKDError: a file cannot be read.
    """
    try:
        files = _digests(case, predictions or {})
    except OSError as error:
        raise MSTKDError(
            f"cannot read {error.filename} ({error.strerror}); if it is a link, its source may have moved"
        ) from None
    return EvaluatedCase(
        case.patient,
        str(case.reference.absolute()),
        {name: str(path.absolute()) for name, path in case.images.items()},
        None if predictions is None else tuple(predictions),
        case.label_map,
        files,
    )


def _digests(case: ReferenceCase, predictions: Mapping[str, Path]) -> dict[str, str]:
    files = {"reference": file_digest([case.reference])}
    files |= {IMAGE_ROLE + name: image_digest(path) for name, path in case.images.items()}
    return files | {SEGMENTATION_ROLE + name: file_digest([path]) for name, path in predictions.items()}


def open_folder(folder: Path, record: EvaluationRecord) -> EvaluationRecord:
    """Make the folder this evaluation's.

    Returns:
        The record, with what earlier calls have scored there.

    Raises:
        MSTKDError: it holds something else, or an evaluation of another model, with other settings or of
            other files.
    """
    content = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    # Whoever shares the work writes the record first: it is there by now.
    if content and not (folder / RECORD_FILE).exists():
        raise MSTKDError(f"{folder} is not empty and holds no evaluation; give another folder with -o")
    if content:
        _check_settings(folder, read_evaluation(folder).record, record)
    return note_session(record, None, writable_folder(folder))


def _check_settings(folder: Path, old: EvaluationRecord, new: EvaluationRecord) -> None:
    same = ("dataset", "modalities", "regions", "lesionwise", "ignore", "prediction_label_map")
    different = [name.replace("_", " ") for name in same if getattr(old, name) != getattr(new, name)]
    keys = ("id", "inference")
    different += [f"model {key}" for key in keys if old.model.get(key) != new.model.get(key)]
    if different:
        raise MSTKDError(
            f"{folder} holds an evaluation with other {', '.join(different)}; give another folder with -o"
        )
    store = ScoreStore(folder)
    for name in sorted(old.cases.keys() & new.cases.keys()):
        scores = store.read(name)
        changed = _changed(old.cases[name], new.cases[name], scores.subsets.keys())
        if changed is None:
            continue
        segmented = changed.startswith(IMAGE_ROLE) and _is_predicted(name, old, folder)
        if scores.started or segmented:
            done = "scored" if scores.started else "segmented"
            raise MSTKDError(
                f"the {changed} of case {name} is not what was {done} in {folder}; give another folder with"
                f" -o, or remove cases/{name}.json there, and its segmentations, to do this case again"
            )


def _is_predicted(case: str, record: EvaluationRecord, folder: Path) -> bool:
    """Whether an earlier call left a segmentation of the case, to be scored by this one."""
    outputs = (output_of(folder, subset, record.file_ending) for subset in record.subsets)
    return any(output.target(case).is_file() for output in outputs)


def _changed(old: EvaluatedCase, new: EvaluatedCase, scored: Collection[str]) -> str | None:
    """What of a case is another file than before; of segmentations only those that were scored count."""
    if old.files and old.label_map != new.label_map:
        return "reading of the label values"
    if not old.files:  # a record of before they were kept
        return None
    roles = old.files.keys() & new.files.keys()
    roles -= {
        r for r in roles if r.startswith(SEGMENTATION_ROLE) and r[len(SEGMENTATION_ROLE) :] not in scored
    }
    roles |= {role for role in old.files.keys() ^ new.files.keys() if role.startswith(IMAGE_ROLE)}
    return next((role for role in sorted(roles) if old.files.get(role) != new.files.get(role)), None)


def note_session(record: EvaluationRecord, session: Session | None, folder: Path) -> EvaluationRecord:
    """Write the record with the sessions so far and this one, and return it."""
    with locked_folder(folder):
        record = with_session(with_earlier_scores(record, folder), session, folder)
        write_record(record, folder)
    return record
