"""From a real BraTS 2023 case to a segmentation with t1c and t2w missing, through the stock commands."""

from __future__ import annotations

import json
import shlex
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

CASE = "BraTS-GLI-00000-000"
SETTINGS = "num_epochs=2 num_iterations_per_epoch=3 num_val_iterations_per_epoch=1 full_phase=0.5 seed=0"


@pytest.fixture(scope="module")
def trained(new_workplace, real_case):
    """A workplace with the case converted, planned, preprocessed and an MSTKD student trained on it."""
    work = new_workplace("real")
    shutil.copytree(real_case, work.root / "source" / CASE)
    work.run("nnUNetv2_mstkd convert -i source -d 226 --name BraTSReal --format brats2023")
    work.run("nnUNetv2_plan_and_preprocess -d 226 -c 3d_fullres --verify_dataset_integrity -npfp 1 -np 1")
    size = "--patch-size 96 96 96 --batch-size 2 --base-features 4 --max-stages 4"
    work.run(f"nnUNetv2_mstkd plan -d 226 -c 3d_fullres {size} --set {SETTINGS}")
    line = work.run("nnUNetv2_mstkd env").stdout
    work.environment["nnUNet_extTrainer"] = shlex.split(line)[1].split("=", 1)[1]
    work.run("nnUNetv2_train 226 3d_fullres all -tr nnUNetTrainerMSTKD -p nnUNetMSTKDPlans -device cpu")
    incomplete = work.root / "incomplete" / CASE
    incomplete.mkdir(parents=True)
    for modality in ("t1n", "t2f"):
        shutil.copyfile(real_case / f"{CASE}-{modality}.nii.gz", incomplete / f"{CASE}-{modality}.nii.gz")
    return work


NAMED = "-d 226 -c 3d_fullres -tr nnUNetTrainerMSTKD -p nnUNetMSTKDPlans"
MODEL = f"{NAMED} -f all -device cpu --disable_tta"


@pytest.mark.slow
def test_the_student_segments_the_case_without_t1c_and_t2w(trained, real_case):
    trained.run(f"nnUNetv2_mstkd predict -i incomplete -o out {MODEL}")
    predicted = sitk.ReadImage(str(trained.root / "out" / f"{CASE}.nii.gz"))
    source = sitk.ReadImage(str(real_case / f"{CASE}-t1n.nii.gz"))
    assert predicted.GetSize() == source.GetSize() == (240, 240, 155)
    for property_of in (sitk.Image.GetSpacing, sitk.Image.GetOrigin, sitk.Image.GetDirection):
        assert property_of(predicted) == pytest.approx(property_of(source))
    assert set(np.unique(sitk.GetArrayFromImage(predicted))) <= {0, 1, 2, 3}
    used = json.loads((trained.root / "out" / "modalities.json").read_text())
    record = json.dumps(used)
    assert CASE in record
    assert "t1c" in record


@pytest.mark.slow
def test_prepare_and_plain_nnunet_give_the_same_segmentation(trained):
    if not (trained.root / "out" / f"{CASE}.nii.gz").exists():
        trained.run(f"nnUNetv2_mstkd predict -i incomplete -o out {MODEL}")
    trained.run(f"nnUNetv2_mstkd prepare -i incomplete -o flat {NAMED}")
    trained.run(f"nnUNetv2_predict -i flat -o plain {MODEL}")
    ours, plain = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(trained.root / folder / f"{CASE}.nii.gz")))
        for folder in ("out", "plain")
    )
    np.testing.assert_array_equal(ours, plain)


@pytest.mark.slow
def test_the_teacher_is_nowhere_in_the_network_weights(trained):
    import torch

    folder = trained.results / "Dataset226_BraTSReal" / "nnUNetTrainerMSTKD__nnUNetMSTKDPlans__3d_fullres"
    checkpoint = torch.load(folder / "fold_all" / "checkpoint_final.pth", weights_only=False)
    assert not any("teacher" in key or "discriminator" in key for key in checkpoint["network_weights"])
    assert "teacher" not in checkpoint["mstkd"]
    assert (folder / "fold_all" / "distillation.png").is_file()
