"""Phantom, raw data set, preprocessing, plans, splits: each made once, none taken for whole that is not."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from benchmarks.phantom_study.parts import FEW_FOLD, Run
from benchmarks.phantom_study.workplace import CONFIGURATION, DATASET, DATASET_ID, PLANS_OF, Workplace
from nnunetv2_mstkd.datasets.convert.target import replacing_folder
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import read_json, sweep_leftovers, write_json


def make_data(work: Workplace, runs: Iterable[Run]) -> None:
    """All that the runs read.

    Raises:
        MSTKDError: the folder holds other data than a study of this size has.
    """
    runs = list(runs)
    _phantom(work, "train", work.size.train, seed=1)
    _phantom(work, "test", work.size.test, seed=2)
    _convert(work)
    for network in dict.fromkeys(("mstkdnet", *(run.arm.network for run in runs))):
        _plan(work, network)
    limit_validation(work.splits, work.size.validate)
    if any(run.condition.fold == FEW_FOLD for run in runs):
        add_few_labels(work.splits, work.size.few)


def _phantom(work: Workplace, part: str, cases: int, seed: int) -> None:
    folder = work.out / "phantom" / part
    found = _patients(folder)
    if found == cases:
        return
    if found and (work.raw / DATASET).exists():
        raise MSTKDError(f"{folder} has {found} patients, this size has {cases}; choose another -o")
    folder.parent.mkdir(exist_ok=True)
    sweep_leftovers(folder.parent)
    with replacing_folder(folder) as new:
        command = f"nnUNetv2_mstkd phantom -o {shlex.quote(str(new))} --cases {cases}"
        work.run("data", f"{command} --shape {work.size.shape} --seed {seed}")


def _patients(folder: Path) -> int:
    return len(list(folder.glob("BraTS-*"))) if folder.is_dir() else 0


def _convert(work: Workplace) -> None:
    """The raw data set appears whole, and its split after it: a kill in between leaves one of the two."""
    raw = work.raw / DATASET
    if raw.exists() and work.splits.exists():
        return
    again = " --overwrite" if raw.exists() or work.splits.exists() else ""
    source = shlex.quote(str(work.out / "phantom" / "train"))
    command = f"nnUNetv2_mstkd convert -i {source} -d {DATASET_ID} --name Phantom --format brats2023"
    work.run("data", command + again)


def _plan(work: Workplace, network: str) -> None:
    """Plans of a network; those of MSTKDNet come last of the preprocessing, so they say that it is whole."""
    name, flags = PLANS_OF[network]
    if work.plans(name).exists():
        return
    if network == "mstkdnet":
        work.run("data", f"nnUNetv2_plan_and_preprocess -d {DATASET_ID} -c {CONFIGURATION} -npfp 2 -np 2")
    work.run("data", f"nnUNetv2_mstkd plan -d {DATASET_ID} -c {CONFIGURATION} {flags} {work.size.plan}")


def limit_validation(splits: Path, count: int) -> None:
    """Let fold 0 validate on its first ``count`` patients: what nnU-Net finds there is only logged."""
    folds = read_json(splits)
    if len(folds[0]["val"]) > count:
        folds[0]["val"] = folds[0]["val"][:count]
        write_json(folds, splits)


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
