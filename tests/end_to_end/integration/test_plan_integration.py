"""From raw images through nnU-Net's own commands to plans that nnU-Net's own trainer can use."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.run.run_training import get_trainer_from_args

from nnunetv2_mstkd.methods.mstkd.network import MSTKDNet

_CASES = 4


def _write_raw(folder: Path) -> None:
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    generator = np.random.default_rng(0)
    for case in range(_CASES):
        label = np.zeros((40, 48, 44), np.uint8)
        label[10:20, 12:30, 14:26] = 1
        for channel in range(2):
            image = generator.normal(100, 10, label.shape) + 50 * label
            file = folder / "imagesTr" / f"case{case}_{channel:04d}.nii.gz"
            sitk.WriteImage(sitk.GetImageFromArray(image.astype(np.float32)), str(file))
        file = folder / "labelsTr" / f"case{case}.nii.gz"
        sitk.WriteImage(sitk.GetImageFromArray(label), str(file))
    dataset = {
        "channel_names": {"0": "T2", "1": "ADC"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": _CASES,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(dataset))


def _run(command: str) -> str:
    program, *arguments = shlex.split(command)
    done = subprocess.run(
        [Path(sysconfig.get_path("scripts")) / program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"nnUNet_n_proc_DA": "1"},
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def preprocessed(tmp_path_factory) -> Iterator[Path]:
    """A data set that nnU-Net has planned and preprocessed; the folder of its preprocessed data."""
    root = tmp_path_factory.mktemp("plans")
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (root / variable).mkdir()
            patch.setenv(variable, str(root / variable))
        patch.setenv("nnUNet_n_proc_DA", "0")
        _write_raw(root / "nnUNet_raw" / "Dataset012_Tiny")
        _run("nnUNetv2_plan_and_preprocess -d 12 -c 3d_fullres -np 1 -npfp 1")
        yield root / "nnUNet_preprocessed" / "Dataset012_Tiny"


def _configuration(folder: Path, plans: str) -> dict:
    return json.loads((folder / f"{plans}.json").read_text())["configurations"]["3d_fullres"]


@pytest.mark.slow
def test_stock_nnunet_trains_on_its_own_data_with_these_plans(preprocessed):
    output = _run("nnUNetv2_mstkd plan -d 12 -c 3d_fullres --patch-size 32 32 32 --batch-size 2")
    assert f"nnUNetPlans_3d_fullres ({_CASES} of {_CASES} cases)" in output
    assert "nnUNetv2_preprocess" not in output
    planned = _configuration(preprocessed, "nnUNetMSTKDPlans")
    assert planned["data_identifier"] == "nnUNetPlans_3d_fullres"
    assert planned["patch_size"] == [32, 32, 32]

    torch.manual_seed(0)
    np.random.seed(0)
    trainer = get_trainer_from_args(
        "12", "3d_fullres", "all", "nnUNetTrainer", "nnUNetMSTKDPlans", device=torch.device("cpu")
    )
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    batch = next(trainer.dataloader_train)
    assert batch["data"].shape == (2, 2, 32, 32, 32)
    assert isinstance(trainer.network, MSTKDNet)
    first = trainer.train_step(batch)["loss"]
    assert trainer.train_step(batch)["loss"] < first


@pytest.mark.slow
def test_the_command_that_it_prints_makes_the_data_that_is_missing(preprocessed):
    plan = "nnUNetv2_mstkd plan -d 12 -c 3d_fullres -overwrite_target_spacing 2 2 2 -overwrite_plans_name Two"
    output = _run(plan)
    assert _configuration(preprocessed, "Two")["data_identifier"] == "Two_3d_fullres"
    (command,) = [line.strip() for line in output.splitlines() if "nnUNetv2_preprocess" in line]
    _run(f"{command} -np 1")
    again = _run(plan)
    assert f"Two_3d_fullres ({_CASES} of {_CASES} cases)" in again
    assert "nnUNetv2_preprocess" not in again
