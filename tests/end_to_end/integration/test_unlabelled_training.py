"""Training with cases without a segmentation, through the real commands and nnU-Net's loading processes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nnunetv2_mstkd.environment import EXTERNAL_TRAINERS

SETTINGS = "num_epochs=2 num_iterations_per_epoch=24 num_val_iterations_per_epoch=2 full_phase=0.5 seed=1"
SIZE = "--patch-size 16 16 16 --batch-size 2 --base-features 4 --max-stages 3"
STOCK = "nnUNetv2_mstkd train 803 3d_fullres all -device cpu"


@pytest.mark.slow
def test_from_the_folders_to_what_the_steps_see(new_workplace):
    work = new_workplace("unlabelled")
    work.run("nnUNetv2_mstkd phantom -o source --cases 3 --shape 24 24 24 --seed 3")
    work.run("nnUNetv2_mstkd phantom -o more --cases 2 --shape 24 24 24 --seed 8")
    for number, folder in enumerate(sorted((work.root / "more").glob("BraTS-GLI-*"))):
        for file in folder.iterdir():
            file.rename(file.with_name(file.name.replace("-9000", "-9100")))
        folder.rename(folder.with_name(f"BraTS-GLI-9100{number}-000"))
    convert = "nnUNetv2_mstkd convert -i source --unlabelled more -d 803 --name More --format brats2023"
    out = work.run(convert).stdout
    assert "2 of them without a segmentation: in no fold" in out
    assert "segmentations of 2 of these are not used" in out
    checked = work.run("nnUNetv2_plan_and_preprocess -d 803 -c 3d_fullres --verify_dataset_integrity")
    assert "your dataset is most likely OK" in checked.stdout
    work.run(f"nnUNetv2_mstkd plan -d 803 -c 3d_fullres {SIZE} --set {SETTINGS}")
    assert "would learn in fold all that 2 cases" in work.run(STOCK, check=False).stderr

    record = work.root / "record.jsonl"
    paths = [str(EXTERNAL_TRAINERS), str(Path(__file__).parent / "recording_trainers")]
    work.run(
        "nnUNetv2_train 803 3d_fullres 0 -tr nnUNetTrainerRecording -p nnUNetMSTKDPlans -device cpu",
        nnUNet_extTrainer=os.pathsep.join(paths),
        MSTKD_TEST_RECORD=str(record),
    )
    steps = [json.loads(line) for line in record.read_text().splitlines()]
    taken = [sum(key.startswith("BraTS-GLI-91") for key in step["keys"]) for step in steps]
    assert [step["full"] for step in steps] == [True] * 24 + [False] * 24
    assert taken[:24] == [0] * 24
    assert taken[-2:] == [1, 1], "the first steps still see what nnU-Net has loaded ahead, up to 14 batches"
    (fold,) = work.results.glob("Dataset803_*/nnUNetTrainerRecording__nnUNetMSTKDPlans__3d_fullres/fold_0")
    (log,) = fold.glob("training_log_*.txt")
    assert log.read_text().count("Cases without a segmentation: 2 train the distillation.") == 1
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 1
