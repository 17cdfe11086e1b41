"""Segmentations in, raw facts per region out."""

import json
from pathlib import Path

import numpy as np
import pytest
from medpy.metric.binary import dc
from medpy.metric.binary import hd95 as medpy_hd95
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from scipy.ndimage import zoom

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.metrics.lesionwise import RULES
from nnunetv2_mstkd.evaluation.metrics.overlap import dice
from nnunetv2_mstkd.evaluation.metrics.policies import POLICIES
from nnunetv2_mstkd.evaluation.metrics.scores import RegionScore, score_arrays

REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
SPACING = (3.0, 1.0, 0.8)
IGNORE = 4


def segmentation(seed: int, labels: int = 4) -> np.ndarray:
    """Random patches of labels 0 to ``labels - 1`` in a wide background."""
    patches = zoom(np.random.default_rng(seed).integers(0, labels, (3, 4, 4)), 3, order=0)
    return np.pad(patches, ((3, 5), (6, 2), (4, 7))).astype(np.uint8)


def test_regions_against_medpy():
    prediction, reference = segmentation(0), segmentation(1)
    scores = score_arrays(prediction, reference, SPACING, REGIONS)
    assert list(scores) == list(REGIONS)
    for name, labels in REGIONS.items():
        predicted, wanted = np.isin(prediction, labels), np.isin(reference, labels)
        score = scores[name]
        assert dice(score.tp, score.fp, score.fn) == pytest.approx(dc(predicted, wanted), abs=1e-12)
        assert score.hd95 == pytest.approx(medpy_hd95(predicted, wanted, SPACING), abs=1e-6)
        assert score.volume_prediction == pytest.approx(2.4 * predicted.sum())
        assert score.volume_reference == pytest.approx(2.4 * wanted.sum())


def test_dice_and_counts_equal_nnunets(tmp_path):
    files = write(tmp_path, {"reference": segmentation(1, labels=5), "prediction": segmentation(0)})
    results = compute_metrics(
        str(files["reference"]), str(files["prediction"]), SimpleITKIO(), list(REGIONS.values()), IGNORE
    )["metrics"]
    scores = score_arrays(segmentation(0), segmentation(1, labels=5), SPACING, REGIONS, ignore=IGNORE)
    for name, labels in REGIONS.items():
        score, theirs = scores[name], results[labels]
        assert (score.tp, score.fp, score.fn) == (theirs["TP"], theirs["FP"], theirs["FN"])
        assert POLICIES["nnunet"].dice(score) == pytest.approx(theirs["Dice"])


def write(folder: Path, arrays: dict[str, np.ndarray]) -> dict[str, Path]:
    import SimpleITK as sitk

    files = {name: folder / f"{name}.nii.gz" for name in arrays}
    for name, array in arrays.items():
        sitk.WriteImage(sitk.GetImageFromArray(array), str(files[name]))
    return files


def test_ignored_voxels_count_nowhere():
    reference, prediction = segmentation(1), segmentation(0)
    reference[:, 8:12] = IGNORE
    scores = score_arrays(
        prediction, reference, SPACING, REGIONS, ignore=IGNORE, lesion_rules=RULES["brats2023-met"]
    )
    elsewhere = prediction.copy()
    elsewhere[reference == IGNORE] = 3 - elsewhere[reference == IGNORE] % 3  # another answer, only there
    assert not np.array_equal(prediction, elsewhere)
    again = score_arrays(
        elsewhere, reference, SPACING, REGIONS, ignore=IGNORE, lesion_rules=RULES["brats2023-met"]
    )
    assert scores == again
    counted = score_arrays(elsewhere, reference, SPACING, REGIONS)
    assert counted["WT"].fp > again["WT"].fp


def test_a_prediction_of_ignored_voxels_only_is_empty():
    reference, prediction = np.zeros((2, 4, 5), dtype=np.uint8)
    reference[:2] = IGNORE
    prediction[:2] = 1
    score = score_arrays(prediction, reference, (1.0, 1.0), {"WT": (1,)}, ignore=IGNORE)["WT"]
    assert (score.tp, score.fp, score.fn, score.hd95) == (0, 0, 0, None)


def test_two_dimensions_and_float_labels():
    prediction, reference = segmentation(0)[5].astype(np.float32), segmentation(1)[5].astype(np.float32)
    score = score_arrays(prediction, reference, (1.5, 2.0), REGIONS, lesion_rules=RULES["brats2023-gli"])[
        "WT"
    ]
    assert score.hd95 == pytest.approx(medpy_hd95(prediction > 0, reference > 0, (1.5, 2.0)), abs=1e-6)
    assert score.voxel_volume == 3.0


def test_lesions_of_one_slice_are_measured_in_its_plane_with_the_volume_of_their_voxels():
    reference, prediction = np.zeros((2, 1, 40, 40), dtype=np.uint8)
    reference[0, 10:30, 10:30] = prediction[0, 12:34, 10:30] = 1
    reference[0, 0:3, 0:4] = prediction[0, 0:3, 0:4] = 1  # 12 mm² in the plane, 60 mm³ of 5 mm slices

    def scored(prediction, reference, spacing):
        return score_arrays(
            prediction, reference, spacing, {"WT": (1,)}, lesion_rules=RULES["brats2023-gli"]
        )["WT"]

    in_space = scored(prediction, reference, (5.0, 1.0, 1.0))
    in_plane = scored(prediction[0], reference[0], (1.0, 1.0))
    assert (in_space.lesions.lesions, in_plane.lesions.lesions) == (2, 1), "only 3D has 50 mm³"
    assert in_space.hd95 == in_plane.hd95
    # The second lesion is found exactly.
    assert in_space.lesions.hd95 == in_plane.lesions.hd95 / 2 == 2.0


def test_a_region_may_contain_label_0():
    prediction, reference = segmentation(0), segmentation(1)
    score = score_arrays(prediction, reference, SPACING, {"rest": (0, 2)})["rest"]
    predicted, wanted = np.isin(prediction, (0, 2)), np.isin(reference, (0, 2))
    assert (score.tp, score.tp + score.fp) == ((predicted & wanted).sum(), predicted.sum())
    assert score.hd95 == pytest.approx(medpy_hd95(predicted, wanted, SPACING), abs=1e-6)


def test_empty_segmentations():
    scores = score_arrays(
        *np.zeros((2, 4, 5, 6), np.uint8), SPACING, REGIONS, lesion_rules=RULES["brats2023-gli"]
    )
    assert all((s.tp, s.fp, s.fn, s.hd95) == (0, 0, 0, None) for s in scores.values())
    assert all((s.lesions.dice, s.lesions.hd95) == (1.0, 0.0) for s in scores.values())


@pytest.mark.parametrize("rules", [None, RULES["brats2023-met"]])
def test_scores_survive_json(rules):
    scores = score_arrays(
        segmentation(0), segmentation(1), SPACING, {**REGIONS, "none": (9,)}, lesion_rules=rules
    )
    for score in scores.values():
        assert RegionScore.from_json(json.loads(json.dumps(score.to_json()))) == score
    assert (scores["WT"].lesions is None) == (rules is None)
    assert scores["none"].hd95 is None


def test_other_shapes_are_refused():
    with pytest.raises(MSTKDError, match=r"shape \(4, 5, 6\), the reference \(4, 5, 7\)"):
        score_arrays(np.zeros((4, 5, 6)), np.zeros((4, 5, 7)), SPACING, REGIONS)
    with pytest.raises(MSTKDError, match="spacing"):
        score_arrays(np.zeros((4, 5, 6)), np.zeros((4, 5, 6)), (1.0, 1.0), REGIONS)


def test_facts_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="HD95"):
        RegionScore(tp=1, fp=0, fn=0, hd95=None, voxel_volume=1.0)
    with pytest.raises(ValueError, match="HD95"):
        RegionScore(tp=0, fp=3, fn=0, hd95=1.0, voxel_volume=1.0)
