"""Each of the four empty cases under each policy."""

import math

import numpy as np
import pytest

from nnunetv2_mstkd.evaluation.metrics.policies import POLICIES, empty_case
from nnunetv2_mstkd.evaluation.metrics.scores import RegionScore, score_arrays

NAN = math.nan
# By which mask is empty: Dice and HD95. The masks are of 9 voxels, the neither case has tp 8, fp 1, fn 1.
EXPECTED = {
    "brats": {"prediction": (0, 374), "reference": (0, 374), "both": (1, 0), "neither": (16 / 18, 2.5)},
    "nnunet": {"prediction": (0, NAN), "reference": (0, NAN), "both": (NAN, NAN), "neither": (16 / 18, 2.5)},
    "official": {
        "prediction": (1 / 10, 0),
        "reference": (1 / 10, 0),
        "both": (1, 0),
        "neither": (17 / 19, 2.5),
    },
}
SCORES = {
    "prediction": RegionScore(tp=0, fp=0, fn=9, hd95=None, voxel_volume=1.0),
    "reference": RegionScore(tp=0, fp=9, fn=0, hd95=None, voxel_volume=1.0),
    "both": RegionScore(tp=0, fp=0, fn=0, hd95=None, voxel_volume=1.0),
    "neither": RegionScore(tp=8, fp=1, fn=1, hd95=2.5, voxel_volume=1.0),
}


def test_every_policy_is_tested():
    assert set(POLICIES) == set(EXPECTED)
    assert all(policy.name == name and policy.source for name, policy in POLICIES.items())


@pytest.mark.parametrize("case", SCORES)
@pytest.mark.parametrize("name", EXPECTED)
def test_the_four_cases(name, case):
    policy, score = POLICIES[name], SCORES[case]
    assert empty_case(score) == case
    dice, hd95 = EXPECTED[name][case]
    assert policy.dice(score) == pytest.approx(dice, nan_ok=True)
    assert policy.hd95(score) == pytest.approx(hd95, nan_ok=True)


@pytest.mark.parametrize("name", EXPECTED)
def test_masks_that_do_not_meet_are_not_empty(name):
    score = RegionScore(tp=0, fp=4, fn=5, hd95=80.0, voxel_volume=1.0)
    assert POLICIES[name].dice(score) == pytest.approx(1 / 10 if name == "official" else 0.0)
    assert POLICIES[name].hd95(score) == 80.0


@pytest.mark.parametrize("case", SCORES)
@pytest.mark.parametrize("name", EXPECTED)
def test_the_same_from_arrays(name, case):
    prediction, reference = np.zeros((2, 5, 6), dtype=np.uint8)
    if case != "prediction" and case != "both":
        prediction[1:4, 1:4] = 1
    if case != "reference" and case != "both":
        reference[1:4, 1:4] = 1
    score = score_arrays(prediction, reference, (1.0, 1.0), {"WT": (1,)})["WT"]
    dice, hd95 = (1.0, 0.0) if case == "neither" else EXPECTED[name][case]
    assert POLICIES[name].dice(score) == pytest.approx(dice, nan_ok=True)
    assert POLICIES[name].hd95(score) == pytest.approx(hd95, nan_ok=True)
