"""What an evaluation leaves in its folder, and how it is read again.

::

    OUT/evaluation.json                       what was evaluated, with what: an EvaluationRecord
    OUT/metrics.csv                           one row per case, subset and region: METRIC_COLUMNS
    OUT/predictions/t1c+t2f/CASE.nii.gz       the segmentations, one folder per subset
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import read_json, write_json

RECORD_FILE = "evaluation.json"
METRICS_FILE = "metrics.csv"
PREDICTIONS = "predictions"
RECORD_VERSION = 1
IMAGE_ROLE, SEGMENTATION_ROLE = "image of ", "segmentation of "  # what a file of a case is, by name
SHORT_ID = 12  # characters of a model's digest that are enough for people

# Volumes in mm³ (mm² in 2D), HD95 in mm, TP/FP/FN in voxels. Empty cells are undefined values (nan).
# model is the model's name and the first characters of its digest: folds have one name.
METRIC_COLUMNS = (
    "case",
    "patient",
    "subset",
    "region",
    "dice",
    "hd95",
    "volume_reference",
    "volume_prediction",
    "tp",
    "fp",
    "fn",
    "policy",
    "model",
)
# Only where lesion-wise scores were asked for.
LESION_COLUMNS = ("lesion_dice", "lesion_hd95", "lesions", "missed_lesions", "false_lesions")
# Columns of text, and what stands for no number in the others.
_NAMES = ("case", "patient", "subset", "region", "policy", "model")
_MISSING = {
    column: ["", "nan", "NaN"] for column in (*METRIC_COLUMNS, *LESION_COLUMNS) if column not in _NAMES
}


@dataclass(frozen=True)
class EvaluatedCase:
    """One case of an evaluation.

    Attributes:
        patient: who it is of; several cases may be of one patient.
        reference: file of the reference segmentation.
        images: modality → file.
        subsets: those that the case is scored under, if not all of the evaluation's.
        label_map: value in ``reference`` → value in the model's data set; None where they are the same.
        files: ``reference``, ``image of t1c``, ``segmentation of t1c+t2f`` → digest of that file; the last
            only where segmentations were there before.
    """

    patient: str
    reference: str
    images: Mapping[str, str] = field(default_factory=dict)
    subsets: tuple[str, ...] | None = None
    label_map: Mapping[int, int] | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> EvaluatedCase:
        """What ``asdict`` and JSON made of a case: text for the keys of ``label_map``, a list for a tuple."""
        subsets = content.get("subsets")
        label_map = _label_map(content.get("label_map"))
        known = {"subsets": None if subsets is None else tuple(subsets), "label_map": label_map}
        return cls(**{**content, **known})


def _label_map(content: Mapping[str, int] | None) -> dict[int, int] | None:
    return None if content is None else {int(value): target for value, target in content.items()}


@dataclass(frozen=True)
class Session:
    """One call of ``evaluate`` that worked on a folder.

    Attributes:
        started: when, in UTC (ISO 8601); with ``command`` it tells sessions apart.
        command: what does the same again, without which part of the cases this call had.
        versions: package → version.
        git: commit of the package's checkout, or None where it is installed without one.
        scored: how many scores (cases by subsets) it added; None where it was killed.
        directory: where it was typed, for the relative paths in it.
    """

    started: str
    command: str
    versions: Mapping[str, str] = field(default_factory=dict)
    git: str | None = None
    scored: int | None = None
    directory: str = ""


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """What was evaluated, and with what.

    Attributes:
        model: ``id`` (a digest that tells two models apart) and ``name``; for a model also ``folder``,
            ``trainer``, ``plans``, ``configuration``, ``folds``, ``checkpoint``, ``settings`` (the plans'
            ``"mstkd"`` dict) and ``in_force`` (what training went by, defaults included, where it says so).
        dataset: name of the data set.
        modalities: in channel order.
        regions: region or label name → its label values, in the order of dataset.json.
        subsets: those evaluated, as ``format_subset`` prints them, in table order.
        cases: case name → :class:`EvaluatedCase`.
        policy: for empty masks; a key of ``policies.POLICIES``.
        lesionwise: name of the lesion-wise rules, or None.
        file_ending: of the segmentations.
        command: what reproduces it: that of the last session.
        versions: package → version, of the last session that scored something.
        git: commit of the package's checkout in that session, or None where it is installed without one.
        sessions: every call that scored something, or changed the record.
        region_keys: region → its key in nnU-Net's ``summary.json``.
        predictions: subset → folder of its segmentations, seen from the evaluation's folder where there is a
            way; those that are not listed lie in ``predictions/SUBSET``.
        prediction_label_map: value in the segmentations → value in the model's data set; None where they are
            the same.
        ignore: label of voxels that count nowhere, or None.
    """

    model: Mapping[str, Any]
    dataset: str
    modalities: tuple[str, ...]
    regions: Mapping[str, tuple[int, ...]]
    subsets: tuple[str, ...]
    cases: Mapping[str, EvaluatedCase]
    policy: str
    lesionwise: str | None = None
    file_ending: str = ".nii.gz"
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    git: str | None = None
    sessions: tuple[Session, ...] = ()
    region_keys: Mapping[str, str]
    predictions: Mapping[str, str] = field(default_factory=dict)
    prediction_label_map: Mapping[int, int] | None = None
    ignore: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``evaluation.json``."""
        return {"version": RECORD_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> EvaluationRecord:
        """The record that :meth:`to_json` gave.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: it is something else.
        """
        values = {f.name: content[f.name] for f in fields(cls)}
        values["model"] = {**values["model"], "name": str(values["model"]["name"])}
        values["modalities"], values["subsets"] = tuple(values["modalities"]), tuple(values["subsets"])
        values["regions"] = {name: tuple(labels) for name, labels in values["regions"].items()}
        values["cases"] = {name: EvaluatedCase.from_json(case) for name, case in values["cases"].items()}
        values["prediction_label_map"] = _label_map(values["prediction_label_map"])
        values["sessions"] = tuple(Session(**session) for session in values["sessions"])
        return cls(**values)

    @property
    def commits(self) -> tuple[str | None, ...]:
        """Commits of the sessions that scored something, each once; None is an installation without one."""
        made = [session.git for session in self.sessions if session.scored != 0]
        return tuple(dict.fromkeys(made or [self.git]))

    @property
    def used_versions(self) -> tuple[Mapping[str, str], ...]:
        """Package → version, of every session that scored something."""
        made = [session.versions for session in self.sessions if session.scored != 0 and session.versions]
        return tuple(made or [self.versions])

    @property
    def predicted(self) -> bool:
        """Whether a model predicted here; otherwise segmentations that were there already were scored."""
        return bool(self.model.get("trainer")) or "inference" in self.model

    @property
    def commands(self) -> tuple[str, ...]:
        """What does the same again: the commands of the sessions that scored something, and the last one."""
        made = [session.command for session in self.sessions if session.scored != 0]
        return tuple(dict.fromkeys(command for command in (*made, self.command) if command))

    def subsets_of(self, case: str) -> tuple[str, ...]:
        """Return the subsets that a case is scored under, as far as it has their modalities."""
        own = self.cases[case].subsets
        return self.subsets if own is None else own

    def prediction_folder(self, folder: Path, subset: str) -> Path:
        """Return where the segmentations under a subset are; ``folder`` is the evaluation's."""
        listed = self.predictions.get(subset)
        if listed is None:
            return folder / PREDICTIONS / subset
        # The way is counted between real folders: ".." behind a linked folder would lead elsewhere.
        return Path(os.path.normpath(Path(os.path.realpath(folder)) / listed))


@dataclass(frozen=True)
class Evaluation:
    """An evaluation's folder, read.

    Attributes:
        folder: where it is.
        record: of the cases that are looked at.
        without: cases that are not; their rows are left out.
    """

    folder: Path
    record: EvaluationRecord
    without: frozenset[str] = frozenset()

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """One row per case, subset and region: ``METRIC_COLUMNS``, and ``LESION_COLUMNS`` where asked for.

        Raises:
            MSTKDError: there is no table yet, or it is none of ours.
        """
        path = self.folder / METRICS_FILE
        try:
            # Case names may be numbers with leading zeros, and a region may be called NA.
            table = pd.read_csv(
                path, dtype=dict.fromkeys(_NAMES, str), keep_default_na=False, na_values=_MISSING
            )
        except FileNotFoundError:
            raise MSTKDError(f"{self.folder} has no {METRICS_FILE}: its evaluation did not end") from None
        except (OSError, ValueError) as error:
            raise MSTKDError(f"cannot read {path} as a table: {error}") from None
        missing = [column for column in METRIC_COLUMNS if column not in table]
        if missing:
            raise MSTKDError(f"{path} has no column {missing[0]}; run nnUNetv2_mstkd evaluate again")
        return table[~table["case"].isin(self.without)].reset_index(drop=True) if self.without else table

    def prediction(self, case: str, subset: str) -> Path:
        """Return the file of a case's segmentation under a subset, which may have been deleted."""
        return self.record.prediction_folder(self.folder, subset) / f"{case}{self.record.file_ending}"


def read_evaluation(folder: Path) -> Evaluation:
    """Read what ``nnUNetv2_mstkd evaluate`` wrote.

    Raises:
        MSTKDError: the folder holds no evaluation.
    """
    path = folder / RECORD_FILE
    if not path.is_file():
        raise MSTKDError(f"{folder} has no {RECORD_FILE}; give the -o folder of nnUNetv2_mstkd evaluate")
    content = read_json(path)
    try:
        return Evaluation(folder, EvaluationRecord.from_json(content))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MSTKDError(
            f"{path} is not what nnUNetv2_mstkd evaluate writes ({error!r}); evaluate into a new folder"
        ) from None


def write_record(record: EvaluationRecord, folder: Path) -> None:
    """Write ``evaluation.json`` in one step."""
    write_json(record.to_json(), folder / RECORD_FILE)
