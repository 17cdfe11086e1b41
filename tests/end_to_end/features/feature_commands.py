"""The commands that the tests of nnU-Net's features run, and where their results lie."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import SimpleITK as sitk

DATASET = "Dataset901_Features"
PLANS, BASE_PLANS = "nnUNetMSTKDPlans", "nnUNetBasePlans"
SIZES = "--patch-size 16 16 16 --batch-size 2 --base-features 4 --max-stages 3"
SHORT = "num_epochs=2 num_iterations_per_epoch=2 num_val_iterations_per_epoch=1 save_every=1 seed=1"
CASES = ("BraTS-GLI-90000-000", "BraTS-GLI-90001-000")
ABSENT = {CASES[0]: ["t1c"], CASES[1]: ["t1n", "t2f"]}


def train(configuration: str, fold: int | str, *flags: str, tr="nnUNetTrainerMSTKD", p=PLANS, d=901) -> str:
    """The command that trains; flags are added as they are."""
    chosen = ["-tr", tr, "-p", p, "-device", "cpu"]
    return shlex.join(["nnUNetv2_mstkd", "train", str(d), configuration, str(fold), *chosen, *flags])


def predict(
    source: Path | str, output: str, configuration: str, *flags: str, tr="nnUNetTrainerMSTKD", p=PLANS, d=901
) -> str:
    """The command that segments with this plugin; flags are added as they are."""
    folders = ["-i", str(source), "-o", output]
    model = ["-d", str(d), "-c", configuration, "-tr", tr, "-p", p]
    return shlex.join(
        ["nnUNetv2_mstkd", "predict", *folders, *model, "-device", "cpu", "--disable_tta", *flags]
    )


def model_folder(work, configuration: str, tr="nnUNetTrainerMSTKD", p=PLANS, dataset=DATASET) -> Path:
    return work.results / dataset / f"{tr}__{p}__{configuration}"


def voxels(file: Path | str) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def segmentations(folder: Path) -> dict[str, np.ndarray]:
    """Voxels by file name; there has to be one per case."""
    found = {file.name: voxels(file) for file in sorted(folder.glob("*.nii.gz"))}
    assert set(found) == {f"{case}.nii.gz" for case in CASES}
    return found


def assert_equal_voxels(first: Path, second: Path) -> None:
    ours, theirs = segmentations(first), segmentations(second)
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
