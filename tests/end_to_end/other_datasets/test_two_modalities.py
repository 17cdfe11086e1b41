"""T2 and ADC, plain labels: trained and predicted by the real commands, from dataset.json alone."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunetv2_mstkd import segment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(trained):
    return trained.two


@pytest.fixture(scope="module")
def predictions(two):
    """Subset as typed → folder that predict wrote; ``stock`` → plain nnU-Net's, of all."""
    subsets = {"both": "T2 ADC", "t2": "T2", "adc": "adc"}
    two.run_together(
        *(f"{two.predict} -i {two.cases} -o {n} --modalities {s}" for n, s in subsets.items()),
        f"{two.stock} -i {two.cases} -o two_stock",
    )
    return {name: two.root / name for name in (*subsets, "two_stock")}


def test_training_showed_every_subset_and_said_so(two):
    assert "Modalities: t2w, ADC" in two.log
    for line in [line for line in two.log.splitlines() if "Pseudo dice by subset" in line]:
        assert all(f"'{subset}':" in line for subset in ("t2w", "ADC", "t2w+ADC"))
    checkpoint = torch.load(two.model / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert np.isfinite(checkpoint["logging"]["train_losses"]).all()
    assert (two.model / "fold_0" / "validation" / "summary.json").is_file()


def test_any_subset_can_be_predicted(two, predictions):
    expected = {"both": ["t2w", "ADC"], "t2": ["t2w"], "adc": ["ADC"]}
    arrays = []
    for subset, used in expected.items():
        records = json.loads((predictions[subset] / "modalities.json").read_text())
        assert [records[case]["used"] for case in ("case_5", "case_6")] == [used] * 2
        for case in ("case_5", "case_6"):
            image = sitk.ReadImage(str(predictions[subset] / f"{case}.nii.gz"))
            source = sitk.ReadImage(str(two.cases / f"{case}_0000.nii.gz"))
            for what in ("Size", "Spacing", "Origin", "Direction"):
                assert getattr(image, f"Get{what}")() == getattr(source, f"Get{what}")()
        arrays.append(sitk.GetArrayFromImage(image))
        assert set(np.unique(arrays[-1])) <= {0, 1, 2}
    assert all((a != b).any() for a, b in pairwise(arrays))


def test_plain_nnunet_predicts_a_whole_case_as_predict_does(predictions, assert_same):
    assert_same(predictions["both"], predictions["two_stock"])


def test_a_case_that_lacks_its_file_is_one_whose_modality_is_not_asked_for(two, predictions, assert_same):
    flat = two.root / "without_t2"
    flat.mkdir()
    shutil.copy(two.cases / "case_5_0001.nii.gz", flat)
    two.run(f"{two.prepare} -i {flat} -o prepared")
    two.run(f"{two.stock} -i prepared -o by_stock")
    assert_same(predictions["adc"], two.root / "by_stock", ["case_5"])
    images = {"T2": None, "ADC": flat / "case_5_0001.nii.gz"}
    result = segment(
        images, model=two.model, device="cpu", mirroring=False, output=two.root / "api/case_5.nii.gz"
    )
    assert_same(predictions["adc"], two.root / "api", ["case_5"])
    assert (result.used, result.absent) == (("ADC",), ("t2w",))
