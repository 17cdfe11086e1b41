"""One real BraTS case with two of its files taken away (untrained network: plumbing, not accuracy)."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mstkd.cli import main

CASE = "BraTS-GLI-00000-000"


@pytest.mark.slow
def test_a_real_case_without_t1c_and_t2w(shared_data, files, tmp_path):
    plans = files.plans_json()
    plans["configurations"]["3d_fullres"]["patch_size"] = [96, 96, 96]
    model = files.write_model(tmp_path / "model", files.dataset_json(regions=True), plans)
    source = tmp_path / "in" / CASE
    source.mkdir(parents=True)
    for modality in ("t1n", "t2f"):
        (path,) = (shared_data / CASE).glob(f"*-{modality}.nii.gz")
        (source / path.name).symlink_to(path)
    flags = ["-m", str(model), "-device", "cpu", "--disable_tta", "-step_size", "1"]
    assert main(["predict", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), *flags]) == 0

    result = sitk.ReadImage(str(tmp_path / "out" / f"{CASE}.nii.gz"))
    image = sitk.ReadImage(str(next(source.glob("*-t1n.nii.gz"))))
    for what in ("Size", "Spacing", "Origin", "Direction"):
        assert getattr(result, f"Get{what}")() == getattr(image, f"Get{what}")()
    labels = sitk.GetArrayFromImage(result)
    assert set(np.unique(labels)) <= {0, 1, 2, 3}
    assert labels.any()
    brain = np.argwhere(sitk.GetArrayFromImage(image) != 0)
    box = tuple(slice(a - 2, b + 3) for a, b in zip(brain.min(0), brain.max(0), strict=True))
    labels[box] = 0
    assert not labels.any(), "nnU-Net's crop: nothing is segmented outside the brain's box"
    entry = json.loads((tmp_path / "out" / "modalities.json").read_text())[CASE]
    assert entry == {"used": ["t1n", "t2f"], "absent": ["t1c", "t2w"], "constant": [], "ignored": []}
