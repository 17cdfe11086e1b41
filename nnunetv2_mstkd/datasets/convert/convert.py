"""From BraTS, FeTS or Decathlon folders to a complete nnU-Net raw data set."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_mstkd.datasets.availability import Availability, recorded
from nnunetv2_mstkd.datasets.convert.inspection import BadCasesError, Inspection, inspect_case
from nnunetv2_mstkd.datasets.convert.source_cases import SourceCase, Sources, find_sources, stated_patients
from nnunetv2_mstkd.datasets.convert.splits import check_split, patient_splits
from nnunetv2_mstkd.datasets.convert.target import CONVERTED_PARTS, check_replaceable, replacing_folder
from nnunetv2_mstkd.datasets.convert.unlabelled import Unlabelled
from nnunetv2_mstkd.datasets.convert.writing import (
    CaseJob,
    choose_ending,
    dataset_json,
    write_case,
)
from nnunetv2_mstkd.datasets.formats import AUTO, FORMATS, DatasetFormat, check_name, detect_format
from nnunetv2_mstkd.datasets.input_rules import InputRules
from nnunetv2_mstkd.datasets.labels import check_label_values
from nnunetv2_mstkd.datasets.parallel import run_all
from nnunetv2_mstkd.environment import nnunet_folder
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import writable_folder, write_json
from nnunetv2_mstkd.modalities import BRATS_MODALITIES


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        folder: the raw data set.
        splits_file: ``splits_final.json``.
        format: the source's format.
        patients: case → patient, of the cases written.
        availability: which modalities each of them has.
        without_segmentation: cases that were left out because nothing can be learnt from them.
        folds: number of folds in the splits file.
        unlabelled: complete cases without a segmentation, of those written; no fold lists them.
        unlabelled_left_out: unlabelled cases that were left out because they lack modalities.
        segmentations_not_used: of the unlabelled cases, those that have one all the same.
    """

    folder: Path
    splits_file: Path
    format: DatasetFormat
    patients: dict[str, str]
    availability: Availability
    without_segmentation: list[str]
    folds: int
    unlabelled: tuple[str, ...] = ()
    unlabelled_left_out: tuple[str, ...] = ()
    segmentations_not_used: int = 0


def convert(
    source: Path,
    dataset_id: int,
    name: str,
    *,
    source_format: str,
    regions: bool = True,
    copy: bool = False,
    folds: int = 5,
    seed: int = 12345,
    num_processes: int = 1,
    overwrite: bool = False,
    unlabelled: Path | None = None,
    rules: InputRules | None = None,
) -> Conversion:
    """Write ``nnUNet_raw/DatasetXXX_Name`` and its ``splits_final.json`` in ``nnUNet_preprocessed``.

    Every file is read and checked before the first is written, and the data set appears under its name only
    when it is complete.

    Args:
        source: folder in a layout of ``discovery``, a Decathlon folder, or a table of files.
        dataset_id: 1 to 999.
        name: letters, digits, ``_`` and ``-``.
        source_format: a key of ``FORMATS``, or ``"auto"``.
        regions: labels as WT/TC/ET (and RC) instead of plain tissue labels.
        copy: copy images instead of linking them.
        folds, seed: of the patient-grouped split.
        num_processes: processes that read and write cases.
        overwrite: replace a data set of this id and name.
        unlabelled: folder of complete cases to train on without a segmentation; ``source`` itself means those
            of its cases that have none.
        rules: how to read names that do not tell.

    Raises:
        BadCasesError: some cases cannot be used.
        MSTKDError: anything else that the user must change.
    """
    raw_folder, preprocessed_folder = target_folders(dataset_id, name, overwrite=overwrite)
    if source_format != AUTO and source_format not in FORMATS:
        raise MSTKDError(f"unknown format '{source_format}'; known are {', '.join(FORMATS)} and {AUTO}")
    check_split(folds, seed)
    sources = find_sources(source, rules)
    check_replaceable(raw_folder, source, sources.files)
    more = Unlabelled.find(source, sources, unlabelled, rules)
    check_replaceable(raw_folder, unlabelled or source, more.sources.files)
    inspections = _inspected(source, sources, num_processes)
    fmt = _checked_format(source_format, inspections)
    labelled = [i for i in inspections if i.case.segmentation is not None]
    complete, incomplete = more.inspected(inspections, num_processes)
    usable = [*labelled, *complete]
    content = dataset_json(usable, fmt, name=name, ending=choose_ending(usable), regions=regions)
    content["mstkd"]["patients"] |= stated_patients(inspection.case for inspection in usable)
    patients, availability = content["mstkd"]["patients"], recorded(content, BRATS_MODALITIES)
    by_split = {i.case.name: patients[i.case.name] for i in labelled}
    splits = patient_splits(by_split, folds=folds, seed=seed)
    writable_folder(raw_folder.parent)
    splits_file = writable_folder(preprocessed_folder) / "splits_final.json"
    if splits_file.is_dir():
        raise MSTKDError(f"{splits_file} is a folder; move it away")
    _write_raw(raw_folder, content, usable, copy=copy, num_processes=num_processes)
    write_json(splits, splits_file)
    taken = tuple(i.case.name for i in complete)
    left_out = [
        i.case.name
        for i in inspections
        if i.case.segmentation is None and i.case.name not in (*taken, *incomplete)
    ]
    return Conversion(
        raw_folder,
        splits_file,
        fmt,
        patients,
        availability,
        left_out,
        len(splits),
        taken,
        incomplete,
        more.segmentations_not_used,
    )


def _write_raw(
    target: Path, content: dict[str, Any], usable: Sequence[Inspection], *, copy: bool, num_processes: int
) -> None:
    """Images, segmentations and ``dataset.json``, all or nothing."""
    ending, format_name = content["file_ending"], content["mstkd"]["format"]
    with replacing_folder(target) as folder:
        for part in CONVERTED_PARTS:
            (folder / part).mkdir()
        jobs = [CaseJob(inspection, folder, ending, format_name, copy) for inspection in usable]
        run_all(write_case, jobs, num_processes=num_processes, title="writing")
        write_json(content, folder / "dataset.json")


def target_folders(dataset_id: int, name: str, *, overwrite: bool) -> tuple[Path, Path]:
    """Folders of the data set below nnUNet_raw and nnUNet_preprocessed.

    Raises:
        MSTKDError: a bad id or name, an unset variable, an id that another data set has, or a data set of
            this name without ``overwrite``.
    """
    if not 1 <= dataset_id <= 999:
        raise MSTKDError(f"data set id {dataset_id} is out of range; choose 1 to 999")
    if not re.fullmatch(r"[A-Za-z0-9_\-]+", name):
        raise MSTKDError(f"data set name '{name}' is not usable; use letters, digits, _ and - only")
    folder_name = f"Dataset{dataset_id:03d}_{name}"
    parents = [nnunet_folder("nnUNet_raw"), nnunet_folder("nnUNet_preprocessed")]
    # nnU-Net looks for the id in all three folders and stops if it finds two names.
    variables = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    for parent in (Path(os.environ[name]) for name in variables if os.environ.get(name)):
        others = sorted(p.name for p in parent.glob(f"Dataset{dataset_id:03d}_*") if p.name != folder_name)
        if others:
            raise MSTKDError(f"data set id {dataset_id} is taken by {parent / others[0]}; choose another -d")
    raw, preprocessed = (parent / folder_name for parent in parents)
    for path in (raw, preprocessed / "splits_final.json"):
        if path.exists() and not overwrite:
            raise MSTKDError(f"{path} exists; use --overwrite to replace it, or another -d")
    return raw, preprocessed


def _inspected(source: Path, sources: Sources, num_processes: int) -> list[Inspection]:
    """All cases, read and good."""
    inspections = run_all(inspect_case, sources.cases, num_processes=num_processes, title="checking")
    problems = {**sources.problems, **{i.case.name: i.problem for i in inspections if i.problem}}
    if problems:
        raise BadCasesError(problems, len(sources.cases) + len(sources.problems))
    _require_segmentations(source, sources.cases)
    return inspections


def _require_segmentations(source: Path, cases: Sequence[SourceCase]) -> None:
    if not any(case.segmentation for case in cases):
        raise MSTKDError(
            f"no case in {source} has a segmentation (a file CASE-seg.nii.gz): there is nothing to train on;"
            " to segment these cases use nnUNetv2_mstkd predict"
        )


def _checked_format(source_format: str, inspections: Sequence[Inspection]) -> DatasetFormat:
    """The format, after names and label values of all cases were held against it."""
    names = [i.case.name for i in inspections]
    values = {value for i in inspections for value in i.label_values}
    if source_format == AUTO:
        return detect_format(names, values)
    fmt = FORMATS[source_format]
    problems = {}
    for inspection in inspections:
        name = inspection.case.name
        try:
            check_label_values(fmt, inspection.label_values, values, name)
            check_name(fmt, name, inspection.label_values)
        except MSTKDError as error:
            problems[name] = str(error)
    if problems:
        raise BadCasesError(problems, len(inspections))
    return fmt
