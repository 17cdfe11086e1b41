"""Training on cases that lack sequences, through the real commands, from files to what the networks see."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mstkd.environment import EXTERNAL_TRAINERS

MODALITIES = ("t1n", "t1c", "t2w", "t2f")
CASES = tuple(f"BraTS-GLI-9000{i}-000" for i in range(4))
REMOVED = {CASES[0]: ["t1c"], CASES[1]: ["t1c", "t2w"]}
SETTINGS = "num_epochs=2 num_iterations_per_epoch=8 num_val_iterations_per_epoch=2 full_phase=0.5 seed=1"
SIZE = "--patch-size 24 24 24 --batch-size 2 --base-features 4 --max-stages 3"
TABLE = """\
2 of 4 cases lack modalities:
  cases  lack
      2  t1c
      1  t2w
  cases  have exactly
      2  t1n+t1c+t2w+t2f
      1  t1n+t2w+t2f
      1  t1n+t2f
"""


@pytest.fixture(scope="module")
def converted(new_workplace):
    """A workplace with a converted phantom, from which files were removed, and the converter's output."""
    work = new_workplace("incomplete")
    work.run("nnUNetv2_mstkd phantom -o source --cases 4 --shape 32 32 32 --seed 3")
    for case, names in REMOVED.items():
        for name in names:
            (work.root / "source" / case / f"{case}-{name}.nii.gz").unlink()
    done = work.run("nnUNetv2_mstkd convert -i source -d 801 --name Converted --format brats2023")
    return work, done.stdout


def make_by_hand(work) -> None:
    """The same data set without any record of ours, and one placeholder that is not zero."""
    source, target = work.raw / "Dataset801_Converted", work.raw / "Dataset802_Hand"
    shutil.copytree(source, target)
    content = json.loads((target / "dataset.json").read_text())
    del content["mstkd"]
    (target / "dataset.json").write_text(json.dumps(content))
    placeholder = target / "imagesTr" / f"{CASES[1]}_0002.nii.gz"
    image = sitk.ReadImage(str(placeholder))
    assert not sitk.GetArrayViewFromImage(image).any()
    filled = sitk.GetImageFromArray(np.full(image.GetSize()[::-1], 42.5, np.float32))
    filled.CopyInformation(image)
    sitk.WriteImage(filled, str(placeholder))


def train(work, dataset: int) -> tuple[list[dict], str]:
    """What each step saw, and the training's log."""
    paths = [str(EXTERNAL_TRAINERS), str(Path(__file__).parent / "recording_trainers")]
    record = work.root / f"record_{dataset}.jsonl"
    work.run(
        f"nnUNetv2_train {dataset} 3d_fullres all -tr nnUNetTrainerRecording -p nnUNetMSTKDPlans -device cpu",
        nnUNet_extTrainer=os.pathsep.join(paths),
        MSTKD_TEST_RECORD=str(record),
    )
    (log,) = work.results.glob(f"Dataset{dataset}_*/*/fold_all/training_log_*.txt")
    steps = [json.loads(line) for line in record.read_text().splitlines()]
    assert len(steps) == 16
    return steps, "\n".join(line.rstrip() for line in log.read_text().splitlines())


def absent_in(folder: Path) -> dict[str, list[str]]:
    cases = json.loads((folder / "mstkd_availability.json").read_text())["cases"]
    assert set(cases) == set(CASES)
    return {case: entry["absent"] for case, entry in cases.items() if entry["absent"]}


def sources_in(folder: Path) -> set[str]:
    cases = json.loads((folder / "mstkd_availability.json").read_text())["cases"]
    return {entry["source"] for entry in cases.values()}


def check_what_was_seen(steps: list[dict]) -> None:
    """The teacher sees what each case has, the student a non-empty part of it, and both nothing else."""
    teacher_passes, masked_away, seen = 0, 0, set()
    for step in steps:
        seen.update(step["keys"])
        expected = [[m not in REMOVED.get(case, ()) for m in MODALITIES] for case in step["keys"]]
        assert step["available"] == expected
        mask = np.array(step["mask"])
        assert mask.any(axis=1).all()
        assert not (mask & ~np.array(expected)).any(), "a subset with a sequence that the case lacks"
        for seen_by in step["passes"]:
            if seen_by["teacher"] or step["full"]:
                assert seen_by["filled"] == expected
                teacher_passes += seen_by["teacher"]
            else:
                assert seen_by["filled"] == step["mask"]
                masked_away += int((np.array(expected) & ~mask).sum())
        assert step["full"] or {p["teacher"] for p in step["passes"]} == {True, False}
    assert seen == set(CASES)
    assert teacher_passes >= 8
    assert masked_away


@pytest.mark.slow
def test_converted_cases_that_lack_sequences(converted):
    work, printed = converted
    assert TABLE in printed
    work.run("nnUNetv2_plan_and_preprocess -d 801 -c 3d_fullres --verify_dataset_integrity -npfp 1 -np 1")
    planned = work.run(f"nnUNetv2_mstkd plan -d 801 -c 3d_fullres {SIZE} --set {SETTINGS}").stdout
    assert TABLE in planned
    folder = work.preprocessed / "Dataset801_Converted"
    assert absent_in(folder) == REMOVED
    assert sources_in(folder) == {"record"}
    steps, log = train(work, 801)
    assert f"Training cases: {TABLE}" in log
    check_what_was_seen(steps)


@pytest.mark.slow
def test_a_data_set_made_by_hand(converted):
    """Read from the raw images when planning, and from the preprocessed ones where that was not done."""
    work, _ = converted
    make_by_hand(work)
    work.run("nnUNetv2_plan_and_preprocess -d 802 -c 3d_fullres -npfp 1 -np 1")
    planned = work.run(f"nnUNetv2_mstkd plan -d 802 -c 3d_fullres {SIZE} --set {SETTINGS}").stdout
    assert TABLE in planned
    folder = work.preprocessed / "Dataset802_Hand"
    assert absent_in(folder) == REMOVED
    assert sources_in(folder) == {"raw"}
    (folder / "mstkd_availability.json").unlink()
    steps, log = train(work, 802)
    assert "mstkd_availability.json does not say what 4 cases have" in log
    assert f"Training cases: {TABLE}" in log
    assert absent_in(folder) == REMOVED
    assert sources_in(folder) == {"nnUNetPlans_3d_fullres"}
    check_what_was_seen(steps)
