"""What ``evaluate`` writes down about itself: its record, and the command that does it again."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.cases import ReferenceCase
from nnunetv2_mstkd.evaluation.regions import regions_of, summary_keys
from nnunetv2_mstkd.evaluation.results import (
    RECORD_FILE,
    EvaluatedCase,
    EvaluationRecord,
    Session,
    read_evaluation,
    write_record,
)
from nnunetv2_mstkd.evaluation.sessions import with_session
from nnunetv2_mstkd.files import locked_folder, writable_folder
from nnunetv2_mstkd.inference.model_folder import Fold, ModelFolder, dataset_modalities
from nnunetv2_mstkd.modalities import Subset, all_subsets, format_subset

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
    cases: Iterable[ReferenceCase],
    subsets: Collection[Subset],
    session: Session,
    *,
    model: Mapping[str, Any],
    dataset: str,
    predictions: Mapping[str, str] | None = None,
) -> EvaluationRecord:
    """The record of what a call evaluates; ``predictions`` as in :class:`EvaluationRecord`."""
    modalities = dataset_modalities(dataset_json)
    evaluated = {
        case.name: EvaluatedCase(
            case.patient,
            str(case.reference.absolute()),
            {name: str(path.absolute()) for name, path in case.images.items()},
        )
        for case in cases
    }
    return EvaluationRecord(
        model=model,
        dataset=dataset,
        modalities=modalities,
        regions=regions_of(dataset_json),
        subsets=tuple(format_subset(s, modalities) for s in all_subsets(modalities) if s in subsets),
        cases=evaluated,
        policy=arguments.policy,
        lesionwise=arguments.lesionwise,
        file_ending=str(dataset_json["file_ending"]),
        command=session.command,
        versions=session.versions,
        git=session.git,
        region_keys=summary_keys(dataset_json),
        predictions=predictions or {},
    )


def open_folder(folder: Path, record: EvaluationRecord) -> None:
    """Make the folder this evaluation's.

    Raises:
        MSTKDError: it holds something else, or an evaluation of another model or with other settings.
    """
    if not (folder / RECORD_FILE).exists():
        if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise MSTKDError(f"{folder} is not empty and holds no evaluation; give another folder with -o")
    else:
        old = read_evaluation(folder).record
        same = ("dataset", "modalities", "regions", "lesionwise")
        different = [name for name in same if getattr(old, name) != getattr(record, name)]
        keys = ("id", "inference")
        different += [f"model {key}" for key in keys if old.model.get(key) != record.model.get(key)]
        common = set(old.cases) & set(record.cases)
        if any(old.cases[name].reference != record.cases[name].reference for name in common):
            different.append("references")
        if different:
            raise MSTKDError(
                f"{folder} holds an evaluation with other {', '.join(different)}; give another folder with -o"
            )
    note_session(record, None, writable_folder(folder))


def note_session(record: EvaluationRecord, session: Session | None, folder: Path) -> None:
    """Write the record with the sessions so far and this one, which has only begun."""
    with locked_folder(folder):
        write_record(with_session(record, session, folder), folder)
