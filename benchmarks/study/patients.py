"""Patients in a folder, cross-validated: each is evaluated by the models that did not train on them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.study.data import StudyData, limit_validation, link_case
from benchmarks.study.runs import Run
from benchmarks.study.workplace import Workplace
from nnunetv2_mstkd.datasets.convert.target import replacing_folder
from nnunetv2_mstkd.datasets.discovery import discover
from nnunetv2_mstkd.datasets.formats import FORMATS
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import read_json, sweep_leftovers
from nnunetv2_mstkd.modalities import BRATS_MODALITIES


class Patients(StudyData):
    """A folder of cases in a release's layout. It is read only: the study's folder links to it."""

    dataset_id, dataset = 901, "Dataset901_Patients"
    real = True

    def __init__(self, folder: Path, source_format: str, configuration: str, folds: int) -> None:
        """See what there is.

        Raises:
            MSTKDError: there is no case, one lacks a sequence, or there are fewer patients than folds.
        """
        self.folder, self.format = folder.resolve(), source_format
        self.configuration, self.folds = configuration, folds
        found = discover(self.folder, BRATS_MODALITIES)
        gaps = [case.name for case in found.cases if len(case.images) < len(BRATS_MODALITIES)]
        if gaps:
            raise MSTKDError(
                f"{len(gaps)} case(s) of {folder} lack a sequence (first: {gaps[0]}); the study scores every"
                " subset of complete cases"
            )
        self.patients = sorted({FORMATS[source_format].patient(case.name) for case in found.cases})
        if not 2 <= folds <= len(self.patients):
            raise MSTKDError(
                f"--folds {folds}: choose 2 to {len(self.patients)}, the number of patients in {folder}"
            )

    def make(self, work: Workplace, runs: Iterable[Run]) -> None:
        """Make what the runs read.

        Raises:
            MSTKDError: a run trains on few labels, which is a question to the phantom.
        """
        runs = list(runs)
        if any(run.condition.few_labels for run in runs):
            raise MSTKDError(
                "few_labels is a part of the phantom's study; leave --data away, or see --parts unlabelled"
            )
        self.convert(work, self.folder, f"--folds {self.folds}")
        self._link_held_out(work)
        self.prepare(work, runs)
        # After the links: the split is the only record of who is held out.
        limit_validation(work.splits, work.training.validate, self.folds)

    def held_out(self, work: Workplace, fold: int) -> Path:
        """Return a folder with links to the cases that the fold does not train on."""
        return work.out / "held_out" / f"fold_{fold}"

    def source(self, work: Workplace) -> Path:
        """Return the folder itself."""
        return self.folder

    def record(self) -> dict[str, Any]:
        """Return who is cross-validated and how; the folder may move."""
        return {
            "kind": "patients",
            "patients": self.patients,
            "format": self.format,
            "configuration": self.configuration,
            "folds": self.folds,
        }

    def _link_held_out(self, work: Workplace) -> None:
        place = work.out / "held_out"
        if place.exists():
            return
        sweep_leftovers(work.out)
        of_name = {case.name: case for case in discover(self.folder, BRATS_MODALITIES).cases}
        with replacing_folder(place) as new:
            for fold, split in enumerate(read_json(work.splits)):
                for name in split["val"]:
                    link_case(of_name[name], new / f"fold_{fold}")
