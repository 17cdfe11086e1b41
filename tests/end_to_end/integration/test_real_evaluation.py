"""On a real case, a subset in evaluate is what predict makes of a folder without the other files."""

from __future__ import annotations

import shlex
import shutil

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from tiny_model import dataset_json, plans_json, write_model

CASE = "BraTS-GLI-00000-000"
SUBSETS = ("t1n", "t1c+t2f", "t1n+t1c+t2w+t2f")
FLAGS = "-f 0 -device cpu --disable_tta -step_size 1"


@pytest.fixture(scope="module")
def evaluated(new_workplace, real_case):
    """A network with random weights, which no small difference of its input would leave alone."""
    work = new_workplace("real_evaluation")
    plans = plans_json()
    plans["configurations"]["3d_fullres"]["patch_size"] = [128, 160, 112]
    model = work.root / "nnUNetTrainerModalityDropout__nnUNetPlans__3d_fullres"
    write_model(model, dataset_json(regions=True), plans, trainer="nnUNetTrainerModalityDropout")
    shutil.copytree(real_case, work.root / "cases" / CASE)
    subsets = " ".join(SUBSETS)
    work.run(f"nnUNetv2_mstkd evaluate -m {model.name} --cases cases -o out --subsets {subsets} {FLAGS}")
    return work, model.name


@pytest.mark.slow
def test_as_predicted_from_a_folder_without_the_other_files(evaluated, real_case):
    work, model = evaluated
    for subset in SUBSETS:
        folder = work.root / f"in_{subset}" / CASE
        folder.mkdir(parents=True)
        for modality in subset.split("+"):
            shutil.copyfile(real_case / f"{CASE}-{modality}.nii.gz", folder / f"{CASE}-{modality}.nii.gz")
        names = shlex.quote(f"in_{subset}"), shlex.quote(f"out_{subset}")
        work.run(f"nnUNetv2_mstkd predict -i {names[0]} -o {names[1]} -m {model} {FLAGS}")
        ours, expected = (
            sitk.ReadImage(str(work.root / path / f"{CASE}.nii.gz"))
            for path in (f"out/predictions/{subset}", f"out_{subset}")
        )
        assert np.array_equal(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(expected))
        assert np.unique(sitk.GetArrayFromImage(ours)).size > 1
        assert ours.GetOrigin() == expected.GetOrigin()


@pytest.mark.slow
def test_its_scores_are_medpys(evaluated, real_case):
    from medpy.metric.binary import dc, hd95

    work, _ = evaluated
    table = pd.read_csv(work.root / "out" / "metrics.csv").set_index(["subset", "region"])
    reference = sitk.GetArrayFromImage(sitk.ReadImage(str(real_case / f"{CASE}-seg.nii.gz")))
    predicted = sitk.ReadImage(str(work.root / "out" / "predictions" / "t1c+t2f" / f"{CASE}.nii.gz"))
    a, b = np.isin(sitk.GetArrayFromImage(predicted), (1, 3)), np.isin(reference, (1, 3))
    row = table.loc[("t1c+t2f", "TC")]
    assert row["dice"] == pytest.approx(dc(a, b), abs=1e-9)
    assert row["hd95"] == pytest.approx(hd95(a, b, voxelspacing=(1, 1, 1)), abs=1e-6)
    assert row["volume_reference"] == pytest.approx(11738 + 32731)
