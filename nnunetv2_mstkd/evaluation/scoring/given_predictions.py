"""Segmentations that somebody has predicted already, and under which subset each was."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_mstkd.datasets.formats import patient_of
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.record.record import PREDICTIONS
from nnunetv2_mstkd.evaluation.scoring.evaluator import Task
from nnunetv2_mstkd.evaluation.scoring.reference_cases import ReferenceCase, source_label_map
from nnunetv2_mstkd.inference.records import RECORDS_FILE, read_records
from nnunetv2_mstkd.inference.writing import MASKS, PREVIEWS, SOURCE_LABELS_KEY
from nnunetv2_mstkd.modalities import Subset, format_subset, parse_subset
from nnunetv2_mstkd.models.folder import dataset_modalities, read_dataset_json


@dataclass(frozen=True)
class Predictions:
    """A folder of segmentations.

    Attributes:
        folder: where they are.
        dataset_json: of the data set that they are of.
        files: (subset, case) → file.
        label_map: value in the files → value in the data set; None where they are the same.
    """

    folder: Path
    dataset_json: Mapping[str, Any]
    files: Mapping[tuple[Subset, str], Path]
    label_map: Mapping[int, int] | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """In channel order."""
        return dataset_modalities(self.dataset_json)

    def folders(self, seen_from: Path) -> dict[str, str]:
        """Map subset to the folder of its segmentations, relative to ``seen_from`` where there is a way."""
        places = {format_subset(s, self.modalities): path.parent for (s, _), path in self.files.items()}
        return {subset: _relative(place, seen_from) for subset, place in places.items()}

    def tasks(self, labels: Path, *, source_labels: bool) -> list[tuple[Task, Path]]:
        """List what there is to score, and the file of each.

        Args:
            labels: folder with ``CASE`` and the data set's file ending.
            source_labels: the references have the values of the data set's source.

        Raises:
            MSTKDError: a segmentation has no reference, or the data set names no values of its source.
        """
        ending, labels = str(self.dataset_json["file_ending"]), labels.absolute()
        mapping = source_label_map(self.dataset_json, required=True) if source_labels else None
        names = sorted({case for _, case in self.files})
        without = [name for name in names if not (labels / f"{name}{ending}").is_file()]
        if without:
            raise MSTKDError(
                f"{len(without)} case(s) have no reference in {labels}, the first is {without[0]}{ending}"
            )
        cases = {
            name: ReferenceCase(
                name, patient_of(name, self.dataset_json), {}, labels / f"{name}{ending}", mapping
            )
            for name in names
        }
        return [
            (Task(cases[case], subset, format_subset(subset, self.modalities)), path)
            for (subset, case), path in self.files.items()
        ]


def _relative(place: Path, seen_from: Path) -> str:
    real = os.path.realpath(place)
    try:
        return os.path.relpath(real, os.path.realpath(seen_from))
    except ValueError:  # another drive
        return real


def find_predictions(folder: Path, subsets: Sequence[str] = ()) -> Predictions:
    """Look for segmentations.

    Args:
        folder: with one folder per subset (``t1c+t2f/``, as ``evaluate`` leaves them), or with the
            segmentations themselves, whose subsets ``modalities.json`` names.
        subsets: the one subset of a folder without ``modalities.json`` (any other tool's); else only these
            are scored.

    Raises:
        MSTKDError: nothing there, no dataset.json, or no telling which subset.
    """
    if not folder.is_dir():
        raise MSTKDError(f"no folder {folder}")
    root = folder / PREDICTIONS if (folder / PREDICTIONS).is_dir() else folder
    beside = (MASKS, PREVIEWS)
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name[0] != "."]
    subfolders = [path for path in folders if path.name not in beside]
    dataset_json = _dataset_json([root, *subfolders])
    modalities, ending = dataset_modalities(dataset_json), str(dataset_json["file_ending"])
    wanted = {parse_subset(text, modalities) for text in subsets}
    places = [path for path in subfolders if _segmentations(path, ending)]
    if _segmentations(root, ending):
        if places:
            raise MSTKDError(
                f"{root} holds segmentations and {places[0].name}/ with more; give one folder per subset, or"
                " one of the two"
            )
        places, files = [root], _flat(root, ending, modalities, wanted)
    else:
        files = {
            (subset, case): path
            for subset, place in _by_subset(places, modalities).items()
            for case, path in _segmentations(place, ending).items()
        }
    files = {key: path for key, path in files.items() if not wanted or key[0] in wanted}
    if not files:
        raise MSTKDError(f"no segmentations (*{ending}) to score in {root}")
    return Predictions(folder, dataset_json, files, _label_map(files, dataset_json))


def _by_subset(places: Sequence[Path], modalities: Sequence[str]) -> dict[Subset, Path]:
    found: dict[Subset, Path] = {}
    for place in places:
        other = found.setdefault(parse_subset(place.name, modalities), place)
        if other != place:
            raise MSTKDError(
                f"{other} and {place} mean the same subset; move one away, or give them in calls of their own"
            )
    return found


def _label_map(files: Mapping[tuple[Subset, str], Path], dataset_json: Mapping[str, Any]) -> Any:
    """Read how the segmentations' values are meant: as the records beside them say."""
    records = {place: read_records(place) for place in {path.parent for path in files.values()}}
    from_source = {
        bool(records[path.parent].get(case, {}).get(SOURCE_LABELS_KEY)): path
        for (_, case), path in files.items()
    }
    if len(from_source) > 1:
        raise MSTKDError(
            f"{from_source[True]} has the label values of the data set's source, {from_source[False]} those"
            " of the data set; predict all with --source_labels, or none"
        )
    return source_label_map(dataset_json, required=True) if True in from_source else None


def _dataset_json(places: Sequence[Path]) -> dict[str, Any]:
    for place in places:
        if (place / "dataset.json").is_file():
            return read_dataset_json(place / "dataset.json")
    raise MSTKDError(f"{places[0]} has no dataset.json; copy that of the data set there")


def _segmentations(folder: Path, ending: str) -> dict[str, Path]:
    return {
        p.name[: -len(ending)]: p for p in sorted(folder.glob(f"*{ending}")) if not p.name.startswith(".")
    }


def _flat(
    folder: Path, ending: str, modalities: Sequence[str], wanted: set[Subset]
) -> dict[tuple[Subset, str], Path]:
    found, records = _segmentations(folder, ending), read_records(folder)
    if not records:
        if len(wanted) != 1:
            raise MSTKDError(
                f"{folder} has no {RECORDS_FILE}: name the modalities that its segmentations are based on,"
                " with --subsets NAME+NAME"
            )
        (subset,) = wanted
        return {(subset, case): path for case, path in found.items()}
    unknown = [case for case in found if case not in records]
    if unknown:
        raise MSTKDError(f"{folder / RECORDS_FILE} does not list {unknown[0]}; predict that case again")
    return {(parse_subset(records[c]["used"], modalities), c): path for c, path in found.items()}
