"""Model folders with random weights, and cases to run them on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from benchmarks.plans import CONFIGURATION, MODALITIES, dataset_json
from nnunetv2_mstkd.datasets.phantom.phantom import write_phantom
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import write_json

BRATS_SHAPE = (240, 240, 155)


def write_model(folder: Path, plans: Mapping[str, Any], trainer: str) -> Path:
    """A model folder as training leaves it, fold 0, seeded random weights."""
    configuration = PlansManager(dict(plans)).get_configuration(CONFIGURATION)
    dataset = dataset_json()
    heads = len(dataset["labels"]) - 1
    torch.manual_seed(0)
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        len(MODALITIES),
        heads,
        deep_supervision=True,
    )
    (folder / "fold_0").mkdir(parents=True)
    write_json(dataset, folder / "dataset.json")
    write_json(plans, folder / "plans.json")
    content = {
        "network_weights": network.state_dict(),
        "trainer_name": trainer,
        "init_args": {"configuration": CONFIGURATION},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(content, folder / "fold_0" / "checkpoint_final.pth")
    return folder


def case_folder(given: Path | None, work: Path) -> Path:
    """A BraTS 2023 case: the one given, or a phantom of BraTS size.

    Raises:
        MSTKDError: the given folder lacks a sequence or the segmentation.
    """
    if given is None:
        write_phantom(work / "phantom", cases=1, shape=BRATS_SHAPE, seed=0)
        return next((work / "phantom").glob("BraTS-*"))
    for name in (*MODALITIES, "seg"):
        if len(list(given.glob(f"*-{name}.nii*"))) != 1:
            raise MSTKDError(f"{given} has no *-{name}.nii.gz; give one BraTS 2023 case")
    return given.resolve()


def flat_folder(case: Path, target: Path) -> Path:
    """The case's images as nnU-Net's input folder, by links."""
    target.mkdir()
    for channel, name in enumerate(MODALITIES):
        source = next(case.glob(f"*-{name}.nii*"))
        ending = "".join(source.suffixes[-2:]) if source.suffix == ".gz" else source.suffix
        (target / f"case_{channel:04d}{ending}").symlink_to(source)
    return target


def small_case(folder: Path, shape: tuple[int, int, int]) -> list[Path]:
    """A complete case of noise in nnU-Net's flat layout; returns its images."""
    folder.mkdir(parents=True)
    images = []
    for channel in range(len(MODALITIES)):
        volume = np.random.default_rng(channel).normal(500, 100, shape).astype(np.int16)
        images.append(folder / f"case_{channel:04d}.nii.gz")
        sitk.WriteImage(sitk.GetImageFromArray(volume), str(images[-1]))
    return images
