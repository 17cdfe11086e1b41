"""The built-in phantom: patients to train on, and others to evaluate."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.study.data import StudyData, limit_validation
from benchmarks.study.runs import FEW_FOLD, Run
from benchmarks.study.sizes import PHANTOM_CONFIGURATION
from benchmarks.study.workplace import Workplace
from nnunetv2_mstkd.datasets.convert.target import replacing_folder
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import read_json, sweep_leftovers, write_json


class Phantom(StudyData):
    """As many phantoms as the size says; the training patients' fold 0 is trained."""

    dataset_id, dataset, configuration, folds = 900, "Dataset900_Phantom", PHANTOM_CONFIGURATION, 1
    format = "brats2023"
    real = False

    def make(self, work: Workplace, runs: Iterable[Run]) -> None:
        """Make what the runs read.

        Raises:
            MSTKDError: the folder holds other data than a study of this size has.
        """
        runs, phantoms = list(runs), work.size.phantoms
        self._phantom(work, "train", phantoms.train, seed=1)
        self._phantom(work, "test", phantoms.test, seed=2)
        self.convert(work, self.source(work), "")
        self.prepare(work, runs)
        limit_validation(work.splits, work.training.validate)
        if any(run.condition.few_labels for run in runs):
            add_few_labels(work.splits, phantoms.few)

    def held_out(self, work: Workplace, fold: int) -> Path:
        """Return the test phantoms, the same for every fold."""
        return work.out / "phantom" / "test"

    def source(self, work: Workplace) -> Path:
        """Return the phantoms that train."""
        return work.out / "phantom" / "train"

    def record(self) -> dict[str, Any]:
        """Return that it is the phantom; its sizes stand beside."""
        return {"kind": "phantom"}

    def _phantom(self, work: Workplace, part: str, cases: int, seed: int) -> None:
        folder = work.out / "phantom" / part
        found = _patients(folder)
        if found == cases:
            return
        if found and (work.raw / self.dataset).exists():
            raise MSTKDError(f"{folder} has {found} patients, this size has {cases}; choose another -o")
        folder.parent.mkdir(exist_ok=True)
        sweep_leftovers(folder.parent)
        with replacing_folder(folder) as new:
            command = f"nnUNetv2_mstkd phantom -o {shlex.quote(str(new))} --cases {cases}"
            work.run("data", f"{command} --shape {work.size.phantoms.shape} --seed {seed}")


def _patients(folder: Path) -> int:
    return len(list(folder.glob("BraTS-*"))) if folder.is_dir() else 0


def add_few_labels(splits: Path, few: int) -> None:
    """One more fold: the first ``few`` training patients of fold 0, and all that fold 0 validates on.

    Patients, plans and preprocessed files are those of the main part.

    Raises:
        MSTKDError: the splits file has another fold in this place.
    """
    folds = read_json(splits)
    wanted = {"train": folds[0]["train"][:few], "val": folds[0]["val"]}
    if len(folds) == FEW_FOLD:
        write_json([*folds, wanted], splits)
    elif len(folds) < FEW_FOLD or folds[FEW_FOLD] != wanted:
        raise MSTKDError(f"fold {FEW_FOLD} of {splits} is not that of few labels; choose another -o")
