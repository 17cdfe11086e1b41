"""Which cases are scored, and against which reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_mstkd.datasets.discovery import Case, discover
from nnunetv2_mstkd.datasets.formats import patient_of
from nnunetv2_mstkd.datasets.input_rules import InputRules
from nnunetv2_mstkd.datasets.labels import NO_SOURCE_LABELS
from nnunetv2_mstkd.datasets.nifti import NIFTI_ENDINGS
from nnunetv2_mstkd.datasets.raw_images import raw_images
from nnunetv2_mstkd.datasets.unlabelled import unlabelled_cases
from nnunetv2_mstkd.environment import dataset_folder, nnunet_folder
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.record.provenance import file_digest
from nnunetv2_mstkd.evaluation.record.record import IMAGE_ROLE, SEGMENTATION_ROLE, EvaluatedCase
from nnunetv2_mstkd.evaluation.scoring.label_files import LabelFile
from nnunetv2_mstkd.files import ends_digest, read_json
from nnunetv2_mstkd.models.folder import Fold, ModelFolder


@dataclass(frozen=True)
class ReferenceCase:
    """A case with a reference segmentation.

    Attributes:
        name: of the case.
        patient: who it is of.
        images: modality → file, for the modalities that have one.
        reference: file of the reference segmentation.
        label_map: value in that file → value in the model's data set; None where they are the same.
    """

    name: str
    patient: str
    images: Mapping[str, Path]
    reference: Path
    label_map: Mapping[int, int] | None = None

    @property
    def labels(self) -> LabelFile:
        """The reference, to be read."""
        return LabelFile(self.reference, self.label_map)


def training_cases(model: ModelFolder, fold: Fold | None) -> list[ReferenceCase]:
    """List cases of the data set that the model was trained on.

    Args:
        fold: its validation cases, as ``splits_final.json`` deals them out; None takes every case that has a
            segmentation.

    Raises:
        MSTKDError: the raw data set, its images or the split are not there.
    """
    raw = dataset_folder(nnunet_folder("nnUNet_raw"), str(model.plans["dataset_name"])).absolute()
    dataset_json = read_json(raw / "dataset.json")
    images = raw_images(raw, dataset_json)
    segmented = sorted(set(images).difference(unlabelled_cases(dataset_json)))
    names = segmented if fold is None else _validation_cases(raw.name, fold)
    cases = []
    for name in names:
        files = images.get(name, ())
        if len(files) != len(model.modalities):
            raise MSTKDError(
                f"case {name} has {len(files)} images in {raw}, the model {len(model.modalities)} modalities"
            )
        listed = dataset_json.get("dataset", {}).get(name, {}).get("label")
        reference = raw / (listed or f"labelsTr/{name}{dataset_json['file_ending']}")
        by_name = dict(zip(model.modalities, files, strict=True))
        cases.append(ReferenceCase(name, patient_of(name, dataset_json), by_name, reference))
    return _with_references(cases)


def _validation_cases(dataset: str, fold: Fold) -> list[str]:
    path = nnunet_folder("nnUNet_preprocessed") / dataset / "splits_final.json"
    if fold == "all":
        raise MSTKDError("fold all trains on every case and validates on none; give --cases FOLDER")
    splits = read_json(path)
    if int(fold) >= len(splits):
        raise MSTKDError(f"{path} has {len(splits)} folds, no fold {fold}; choose with -f")
    return sorted(splits[int(fold)]["val"])


def folder_cases(
    folder: Path,
    model: ModelFolder,
    labels: Path | None,
    *,
    source_labels: bool = False,
    rules: InputRules | None = None,
) -> tuple[list[ReferenceCase], dict[str, str]]:
    """Find the cases of a folder, or of a table.

    Args:
        folder: in a layout of :func:`~nnunetv2_mstkd.datasets.discovery.discover`.
        labels: folder with ``CASE.nii.gz`` (or the data set's file ending) in the values of the model's data
            set; None takes the segmentation that lies beside the images, in the values of the source.
        source_labels: ``labels``, too, has the values of the source.
        rules: how to read names that do not tell.

    Returns:
        The cases, and for each unusable one a line that says why.

    Raises:
        MSTKDError: no cases, cases without a reference, or ``source_labels`` of a data set that names none.
    """
    # Absolute: a cluster's workers run elsewhere.
    found = discover(folder.absolute(), model.modalities, file_ending=model.file_ending, rules=rules)
    from_source = None
    if labels is None or source_labels:
        from_source = source_label_map(model.dataset_json, required=source_labels)
    references = {
        case.name: _reference(case, labels and labels.absolute(), model.file_ending) for case in found.cases
    }
    without = [name for name, path in references.items() if path is None]
    if without:
        where = f"in {labels}" if labels else "beside their images; give --labels FOLDER"
        raise MSTKDError(f"{_some(without)} have no reference segmentation {where}")
    cases = [
        ReferenceCase(
            case.name,
            patient_of(case.name, model.dataset_json),
            case.images,
            Path(str(references[case.name])),
            from_source,
        )
        for case in found.cases
    ]
    return _with_references(cases), found.problems


def _reference(case: Case, labels: Path | None, file_ending: str) -> Path | None:
    if labels is None:
        return case.segmentation
    candidates = (labels / f"{case.name}{ending}" for ending in dict.fromkeys((file_ending, *NIFTI_ENDINGS)))
    return next((path for path in candidates if path.is_file()), None)


def source_label_map(dataset_json: Mapping[str, Any], *, required: bool = False) -> dict[int, int] | None:
    """Map value in the source's segmentations to value in the data set; None where they are the same.

    Args:
        required: refuse a data set that does not name its source's values, instead of taking them as its own.

    Raises:
        MSTKDError: it names none, and they are required.
    """
    known = dataset_json.get("mstkd", {}).get("source_labels")
    if not known and required:
        raise MSTKDError(NO_SOURCE_LABELS)
    if not known:
        return None
    mapping = {0: 0, **{int(source): int(target) for target, source in known.items()}}
    return None if all(source == target for source, target in mapping.items()) else mapping


def _with_references(cases: list[ReferenceCase]) -> list[ReferenceCase]:
    gone = [case.name for case in cases if not case.reference.is_file()]
    if gone:
        example = next(case.reference for case in cases if case.name == gone[0])
        raise MSTKDError(f"{_some(gone)} have no reference segmentation ({example} is not there)")
    return cases


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} case(s) ({', '.join(names[:3])}{more})"


def evaluated_case(case: ReferenceCase, predictions: Mapping[str, Path] | None = None) -> EvaluatedCase:
    """Describe a case for the record, with the digests by which another file in its place is noticed.

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
    files |= {IMAGE_ROLE + name: ends_digest(path) for name, path in case.images.items()}
    return files | {SEGMENTATION_ROLE + name: file_digest([path]) for name, path in predictions.items()}
