"""Trained models on disk, as far as they can be understood without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_mstkd.environment import dataset_folder, nnunet_folder
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import read_json
from nnunetv2_mstkd.modalities import modalities_of

FINAL_CHECKPOINT, BEST_CHECKPOINT = "checkpoint_final.pth", "checkpoint_best.pth"
Fold = int | str


@dataclass(frozen=True)
class ModelFolder:
    """nnU-Net's ``TRAINER__PLANS__CONFIGURATION`` folder, with the content of its two JSON files."""

    path: Path
    dataset_json: Mapping[str, Any]
    plans: Mapping[str, Any]

    @property
    def modalities(self) -> tuple[str, ...]:
        """The model's modalities in channel order."""
        return dataset_modalities(self.dataset_json)

    @property
    def file_ending(self) -> str:
        """Ending of the files that the model's data set was made of, and of what is written."""
        return str(self.dataset_json["file_ending"])

    @property
    def image_axes(self) -> tuple[int, ...]:
        """Numbers of axes that image files may have."""
        return image_axes(self.dataset_json, self.plans)

    @property
    def zero_background(self) -> bool:
        """Whether the model learnt from images whose background is zero, as skull-stripped brains have it.

        nnU-Net then normalises within the rest: cropping to it took a quarter of the volume away, or more.
        """
        masks = [c.get("use_mask_for_norm") for c in self.plans["configurations"].values()]
        return any(bool(mask) and all(mask) for mask in masks)

    @property
    def configuration(self) -> str:
        """Name of the plans' configuration that the model is of: the last part of the folder's name.

        Raises:
            MSTKDError: the folder has been renamed, and its plans hold several.
        """
        known = list(self.plans["configurations"])
        named = self.path.resolve().name.rpartition("__")[2]
        if named in known or len(known) == 1:
            return named if named in known else known[0]
        raise MSTKDError(
            f"{self.path} does not say of which configuration its model is ({', '.join(known)}); "
            "name the folder TRAINER__PLANS__CONFIGURATION as nnU-Net does"
        )

    def folds(
        self, wanted: Sequence[Fold] | None, checkpoint_name: str, remedy: str = "choose with -f and -chk"
    ) -> tuple[Fold, ...]:
        """The folds to predict with, each of which has the checkpoint.

        Args:
            wanted: fold numbers or ``"all"``; None takes every numbered fold that has the checkpoint, and
                ``"all"`` where there is no other.
            checkpoint_name: file in the folds' folders.
            remedy: what the user may do, for the error.

        Raises:
            MSTKDError: a checkpoint is not there; the message lists those that are.
        """
        found = [p.parent.name.removeprefix("fold_") for p in self.path.glob(f"fold_*/{checkpoint_name}")]
        if wanted is None:
            numbered: list[Fold] = sorted(int(name) for name in found if name.isdecimal())
            wanted = numbered or [name for name in found if name == "all"]
        missing = [f"fold_{fold}/{checkpoint_name}" for fold in wanted if str(fold) not in found]
        if missing or not wanted:
            present = sorted(str(p.relative_to(self.path)) for p in self.path.glob("fold_*/*.pth"))
            raise MSTKDError(
                f"{self.path} has no {missing[0] if missing else checkpoint_name}; it has"
                f" {', '.join(present) or 'no checkpoint at all'}; {remedy}"
            )
        return tuple(wanted)


def dataset_modalities(dataset_json: Mapping[str, Any]) -> tuple[str, ...]:
    """Modalities in channel order, each name unique."""
    return modalities_of(channel_names(dataset_json))


def channel_names(dataset_json: Mapping[str, Any]) -> list[str]:
    """The names in channel order, as they are written there (in old data sets under ``modality``)."""
    names = dataset_json.get("channel_names") or dataset_json.get("modality") or {}
    try:
        return [str(names[key]) for key in sorted(names, key=int)]
    except (TypeError, ValueError):
        raise MSTKDError('channel_names of dataset.json is not like {"0": "t1n", "1": "t1c"}') from None


def image_axes(dataset_json: Mapping[str, Any], plans: Mapping[str, Any] | None = None) -> tuple[int, ...]:
    """Numbers of axes that image files of a data set may have, as its file ending and its plans tell.

    nnU-Net keeps 2D images as single slices; files of one slice may be of either kind.
    """
    if str(dataset_json["file_ending"]).lower() in (".png", ".bmp"):
        return (2,)
    median = (plans or {}).get("original_median_shape_after_transp")
    return (2, 3) if median and median[0] == 1 else (3,)


def open_model_folder(path: Path) -> ModelFolder:
    """Read what a model folder says about its model.

    Raises:
        MSTKDError: the folder, its dataset.json or its plans.json is missing or is not what nnU-Net writes.
    """
    if not path.is_dir():
        raise MSTKDError(f"model folder not found: {path}")
    for name in ("dataset.json", "plans.json"):
        if not (path / name).is_file():
            raise MSTKDError(f"{path} has no {name}; give a model's TRAINER__PLANS__CONFIGURATION folder")
    dataset_json, plans = read_dataset_json(path / "dataset.json"), read_json(path / "plans.json")
    if not isinstance(plans, dict) or not plans.get("configurations"):
        raise MSTKDError(f"{path / 'plans.json'} has no configurations; it is not nnU-Net's")
    return ModelFolder(path, dataset_json, plans)


def read_dataset_json(path: Path) -> dict[str, Any]:
    """Read a ``dataset.json``.

    Raises:
        MSTKDError: it is missing, or lacks the channels, the labels or the file ending.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise MSTKDError(f"{path} is not nnU-Net's dataset.json")
    for key in ("labels", "file_ending"):
        if key not in content:
            raise MSTKDError(f"{path} has no '{key}'; it is not nnU-Net's dataset.json")
    dataset_modalities(content)
    return content


def find_model_folder(dataset: str, trainer: str, plans: str, configuration: str) -> Path:
    """The folder in ``nnUNet_results`` where nnU-Net's training has left a model.

    Args:
        configuration: its name; ``"*"`` for whichever comes first.

    Raises:
        MSTKDError: nnUNet_results is not set, or has no such model; the message lists those it has.
    """
    results = nnunet_folder("nnUNet_results")
    try:
        parent = dataset_folder(results, dataset)
    except MSTKDError:
        names = ", ".join(sorted(p.name for p in results.glob("Dataset*"))) or "none"
        raise MSTKDError(
            f"no model of data set '{dataset}' in {results} (data sets there: {names});"
            " train one first or give -m MODEL_FOLDER"
        ) from None
    name = f"{trainer}__{plans}__{configuration}"
    found = sorted(p for p in parent.glob(name) if p.is_dir())
    if not found:
        names = ", ".join(sorted(p.name for p in parent.glob("*__*__*"))) or "none"
        raise MSTKDError(f"no model {name} in {parent}; models there: {names}; choose with -tr, -p and -c")
    return found[0]
