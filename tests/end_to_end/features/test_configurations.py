"""2d, 3d_lowres, 3d_fullres and the cascade: trained, and used on cases with files missing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from feature_commands import ABSENT, CASES, DATASET, model_folder, predict, segmentations

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def predicted(models):
    """Every configuration's segmentations of the incomplete cases; the cascade after its first stage."""
    cases = models.root / "cases"
    models.run_together(
        predict(cases, "out_3d_lowres", "3d_lowres", "-f", "all"),
        predict(cases, "out_3d_fullres", "3d_fullres", "-f", "0"),
        predict(cases, "out_2d", "2d", "-f", "0"),
    )
    previous = ("-prev_stage_predictions", "out_3d_lowres")
    models.run(predict(cases, "out_3d_cascade_fullres", "3d_cascade_fullres", "-f", "0", *previous))
    return models


@pytest.mark.parametrize("configuration", ["2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"])
def test_segments_cases_that_lack_files(predicted, configuration):
    folder = predicted.root / f"out_{configuration}"
    record = json.loads((folder / "modalities.json").read_text())
    for name, array in segmentations(folder).items():
        case = name.removesuffix(".nii.gz")
        assert array.shape == (40, 40, 40)
        assert set(np.unique(array)) <= set(range(5))
        assert record[case]["absent"] == ABSENT[case]
    image = sitk.ReadImage(str(folder / f"{CASES[0]}.nii.gz"))
    assert image.GetSpacing() == pytest.approx((1, 1, 1))


def test_the_first_stage_on_fold_all_leaves_every_case_for_the_second(predicted):
    left = model_folder(predicted, "3d_lowres") / "predicted_next_stage" / "3d_cascade_fullres"
    trained = json.loads((predicted.preprocessed / DATASET / "splits_final.json").read_text())[0]
    assert {f.name.split(".")[0] for f in left.iterdir()} == {*trained["train"], *trained["val"]}


def test_the_cascade_sees_the_modalities_and_one_channel_per_label(predicted):
    file = model_folder(predicted, "3d_cascade_fullres") / "fold_0" / "checkpoint_final.pth"
    weights = torch.load(file, weights_only=False)["network_weights"]
    assert weights["encoder.stages.0.conv.weight"].shape[1] == 4 + 4


def test_the_cascade_uses_the_previous_stage(predicted, tmp_path):
    """Another segmentation from the first stage gives another one from the second."""
    emptied = tmp_path / "emptied"
    emptied.mkdir()
    for case in CASES:
        image = sitk.ReadImage(str(predicted.root / "out_3d_lowres" / f"{case}.nii.gz"))
        sitk.WriteImage(image * 0 + 1, str(emptied / f"{case}.nii.gz"))
    out, previous = tmp_path / "out", ("-prev_stage_predictions", str(emptied))
    flags = ("-f", "0", "--save_probabilities", *previous)
    predicted.run(predict(predicted.root / "cases", str(out), "3d_cascade_fullres", *flags))
    assert segmentations(out).keys() == {f"{case}.nii.gz" for case in CASES}
    before = segmentations(predicted.root / "out_3d_cascade_fullres")
    assert any(not np.array_equal(before[name], array) for name, array in segmentations(out).items())


def test_the_cascades_log_warns_of_what_its_first_stage_saw(predicted):
    (log,) = (model_folder(predicted, "3d_cascade_fullres") / "fold_0").glob("training_log*.txt")
    assert "WARNING: the previous stage's segmentations were predicted with all modalities" in log.read_text()
