from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.modalities import BRATS_MODALITIES, all_subsets
from nnunetv2_mstkd.transforms import build_sampler
from nnunetv2_mstkd.transforms.subset_samplers import SAMPLERS

SUBSETS = all_subsets(BRATS_MODALITIES)
SINGLE = np.array([len(subset) == 1 for subset in SUBSETS])


def draws(sampler, available=(True,) * 4, n=6000) -> Counter:
    np.random.seed(0)
    return Counter(tuple(sampler.sample(np.array(available)).tolist()) for _ in range(n))


@pytest.mark.parametrize("name", ["uniform", "difficulty"])
def test_singles_twice_as_often(name):
    counts = draws(build_sampler(name, BRATS_MODALITIES, single_weight=2))
    expected = [6000 * (2 if sum(mask) == 1 else 1) / 19 for mask in counts]
    assert len(counts) == 15
    assert chisquare(list(counts.values()), expected).pvalue > 1e-3
    of_a_case = draws(build_sampler(name, BRATS_MODALITIES, single_weight=2), (True, False, False, True))
    singles = sum(count for mask, count in of_a_case.items() if sum(mask) == 1)
    assert chisquare([singles, 6000 - singles], [4800, 1200]).pvalue > 1e-3


@pytest.mark.parametrize("name", [s for s in SAMPLERS if s not in ("uniform", "difficulty")])
def test_other_samplers_have_no_weight_for_singles(name):
    with pytest.raises(MSTKDError, match=f"single_weight 2 is for the samplers .*, not '{name}'"):
        build_sampler(name, BRATS_MODALITIES, single_weight=2, subset_weights={"t1c": 1})


@pytest.mark.parametrize("single_weight", [1, 3])
def test_begins_as_the_plain_sampler(single_weight):
    sampler = build_sampler("difficulty", BRATS_MODALITIES, single_weight=single_weight)
    start = np.where(SINGLE, single_weight, 1.0)
    np.testing.assert_allclose(sampler.weights, start / start.sum())
    sampler.favour(np.random.default_rng(0).normal(size=15), strength=0)
    np.testing.assert_allclose(sampler.weights, start / start.sum())
    sampler.favour(np.full(15, 0.3), strength=1)
    np.testing.assert_allclose(sampler.weights, start / start.sum(), err_msg="all are as hard")


def test_hard_subsets_come_more_often_within_bounds():
    sampler, difficulty = build_sampler("difficulty", BRATS_MODALITIES), np.zeros(15)
    difficulty[2], difficulty[7], difficulty[5] = 0.9, -0.9, np.nan
    sampler.favour(difficulty, strength=1)
    times = sampler.weights * 15
    assert times.argmax() == 2
    assert times.argmin() == 7
    # 2 and ½ of the start, then the sum is made 1.
    assert times[2] / times[7] == pytest.approx(4)
    assert times[5] == pytest.approx(times[0]), "unknown counts as the mean"
    assert sampler.weights.sum() == pytest.approx(1)


def test_the_formula_by_hand():
    sampler, difficulty = build_sampler("difficulty", BRATS_MODALITIES), np.linspace(-1, 1, 15) * 0.01
    sampler.favour(difficulty, strength=0.3)
    expected = np.exp(0.3 * difficulty / difficulty.std())
    np.testing.assert_allclose(sampler.weights, expected / expected.sum())
