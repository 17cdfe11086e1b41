"""What nnUNetv2_train would fail at with a traceback, or read unsafely: looked at before it starts."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_mstkd.commands.pretrained import Pretrained, check_pretrained
from nnunetv2_mstkd.datasets.unlabelled import unlabelled_cases
from nnunetv2_mstkd.environment import (
    dataset_folder,
    nnunet_folder,
    quiet,
)
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import read_json
from nnunetv2_mstkd.models.building import trainer_class
from nnunetv2_mstkd.models.folder import FINAL_CHECKPOINT, read_dataset_json
from nnunetv2_mstkd.models.loading import (
    checked_device,
)
from nnunetv2_mstkd.trainers.base import nnUNetTrainerFromPlans


def check_training(theirs: Sequence[str]) -> Pretrained | None:
    """Refuse a call of ``nnUNetv2_train`` that cannot work.

    Args:
        theirs: its arguments; what it cannot parse is left to it.

    Returns:
        What ``-pretrained_weights`` holds for the network; ``None`` without, or where that cannot be told.

    Raises:
        MSTKDError: devices that are not there; an unknown data set, plans, configuration, fold or trainer;
            flags that exclude each other; weights that hold code or do not fit.
    """
    given = _parser().parse_known_args(theirs)[0]
    _check_devices(given)
    if given.fold is None:
        return None
    folder = _preprocessed(given.dataset)
    plans = _plans(folder, given.p)
    if given.configuration not in plans["configurations"]:
        known, wanted = ", ".join(plans["configurations"]), given.configuration
        raise MSTKDError(f"no configuration '{wanted}' in {given.p} of {folder.name}; it has {known}")
    if given.fold != "all" and not given.fold.isdecimal():
        raise MSTKDError(f"'{given.fold}' is no fold; give a number or 'all'")
    trainer = _trainer(given.tr)
    dataset_json = read_dataset_json(folder / "dataset.json")
    _check_unlabelled(given, trainer, folder, dataset_json)
    if given.num_gpus > 1:
        _check_batch(given, plans)
    model = f"{trainer.__name__}__{plans.get('plans_name', given.p)}__{given.configuration}"
    _check_flags(given, nnunet_folder("nnUNet_results") / folder.name / model)
    if given.pretrained_weights is None:
        return None
    file = Path(given.pretrained_weights)
    return check_pretrained(file, given.tr, plans, given.configuration, dataset_json)


def _parser() -> argparse.ArgumentParser:
    """Of nnUNetv2_train's arguments those that are looked at, with its defaults."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("dataset", "configuration", "fold"):
        parser.add_argument(name, nargs="?")
    parser.add_argument("-tr", default="nnUNetTrainer")
    parser.add_argument("-p", default="nnUNetPlans")
    parser.add_argument("-pretrained_weights")
    parser.add_argument("-num_gpus", type=int, default=1)
    parser.add_argument("-device", default="cuda")
    for flag in ("--c", "--val", "--val_best", "--disable_checkpointing", "--npz"):
        parser.add_argument(flag, action="store_true")
    return parser


def _check_devices(given: argparse.Namespace) -> None:
    if given.num_gpus <= 1:
        if given.device not in ("cpu", "cuda", "mps"):
            raise MSTKDError(f"unknown device '{given.device}'; nnU-Net trains on cpu, cuda or mps")
        checked_device(given.device)
        return
    if given.device != "cuda":
        raise MSTKDError(f"-num_gpus {given.num_gpus} needs GPUs, not -device {given.device}; leave one out")
    if torch.cuda.device_count() < given.num_gpus:
        raise MSTKDError(
            f"-num_gpus {given.num_gpus}, but this process sees {torch.cuda.device_count()} GPUs; "
            "lower it, or check CUDA_VISIBLE_DEVICES"
        )


def _preprocessed(dataset: str) -> Path:
    parent = nnunet_folder("nnUNet_preprocessed")
    if not dataset.isdecimal() and not dataset.startswith("Dataset"):
        raise MSTKDError(f"'{dataset}' is no data set; give its id or its whole name (DatasetXXX_Name)")
    try:
        return dataset_folder(parent, dataset)
    except MSTKDError as error:
        if " is used by " in str(error):
            raise
        raise MSTKDError(
            f"no data set '{dataset}' in {parent}; run nnUNetv2_plan_and_preprocess -d {dataset} first"
        ) from None


def _plans(folder: Path, name: str) -> dict[str, Any]:
    file = folder / f"{name}.json"
    if not file.is_file():
        no_plans = ("dataset", "dataset_fingerprint", "splits_final")
        known = ", ".join(sorted(f.stem for f in folder.glob("*.json") if f.stem not in no_plans)) or "none"
        raise MSTKDError(f"no plans '{name}' in {folder} (there: {known}); choose with -p, or plan first")
    plans = read_json(file)
    if not isinstance(plans, dict) or not plans.get("configurations"):
        raise MSTKDError(f"{file} has no configurations; plan again")
    return plans


def _trainer(name: str) -> type:
    try:
        with quiet():
            return trainer_class(name)
    except (RuntimeError, AssertionError):
        raise MSTKDError(
            f"no trainer '{name}' in nnU-Net, in this plugin or where nnUNet_extTrainer points;"
            " nnUNetv2_mstkd methods lists this plugin's"
        ) from None


def _check_unlabelled(
    given: argparse.Namespace, trainer: type, folder: Path, dataset_json: Mapping[str, Any]
) -> None:
    """Refuse a trainer of others that would take placeholders for segmentations; ours know them."""
    unlabelled = set(unlabelled_cases(dataset_json))
    if not unlabelled or issubclass(trainer, nnUNetTrainerFromPlans):
        return
    file = folder / "splits_final.json"
    splits = read_json(file) if file.is_file() else []
    fold = int(given.fold) if given.fold.isdecimal() else len(splits)
    listed = splits[fold] if fold < len(splits) else {"train": unlabelled}
    taken = unlabelled.intersection([*listed.get("train", ()), *listed.get("val", ())])
    if taken:
        raise MSTKDError(
            f"{trainer.__name__} would learn in fold {given.fold} that {len(taken)} cases without a"
            " segmentation show nothing but background; train a fold of splits_final.json that does not list"
            " them, or a trainer of this plugin, which leaves them out"
        )


def _check_batch(given: argparse.Namespace, plans: Mapping[str, Any]) -> None:
    """nnU-Net deals the patches of a batch out to the GPUs and asserts that each gets one."""
    batch = PlansManager(plans).get_configuration(given.configuration).batch_size
    if batch < given.num_gpus:
        raise MSTKDError(
            f"-num_gpus {given.num_gpus}, but {given.p} has a batch size of {batch}; use at most {batch}, or"
            f" plan with --batch-size {given.num_gpus}"
        )


def _check_flags(given: argparse.Namespace, model: Path) -> None:
    """Combinations that nnU-Net asserts against once everything is loaded."""
    if given.c and given.val:
        raise MSTKDError("--c and --val exclude each other; leave one out")
    if given.val_best and given.disable_checkpointing:
        raise MSTKDError("--val_best needs the checkpoints that --disable_checkpointing leaves out")
    if given.c and given.pretrained_weights is not None:
        raise MSTKDError("-pretrained_weights is for the beginning of a training; leave it out with --c")
    final = model / f"fold_{given.fold}" / FINAL_CHECKPOINT
    if given.val and not final.is_file():
        raise MSTKDError(f"--val needs a finished training, but there is no {final}")
