from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from nnunetv2_mstkd.modalities import BRATS_MODALITIES
from nnunetv2_mstkd.transforms import build_sampler
from nnunetv2_mstkd.transforms.nested_subsets import NestedPairSampler

FOUR = np.ones(4, dtype=bool)


def draws(sampler, available=FOUR, n=6000):
    np.random.seed(0)
    return [tuple(map(tuple, NestedPairSampler(sampler).sample(available))) for _ in range(n)]


@pytest.mark.parametrize("available", [(1, 1, 1, 1), (1, 0, 1, 1), (0, 1, 1, 0)])
def test_every_strict_pair_of_what_a_case_has_is_as_likely(available):
    available = np.array(available, dtype=bool)
    counts = Counter(draws(build_sampler("uniform", BRATS_MODALITIES), available))
    count = int(available.sum())
    assert len(counts) == 3**count - 2 ** (count + 1) + 1
    for larger, smaller in map(np.array, counts):
        assert smaller.any()
        assert (smaller <= larger).all()
        assert (smaller != larger).any()
        assert (larger <= available).all()
    assert chisquare(list(counts.values())).pvalue > 1e-3


def test_another_sampler_draws_the_smaller_subset_and_supersets_are_uniform():
    weights = {"t1c": 2, "t1n+t1c+t2w": 1, "t1n+t1c+t2w+t2f": 5}
    pairs = draws(build_sampler("weights", BRATS_MODALITIES, subset_weights=weights))
    smaller = Counter(fewer for _, fewer in pairs)
    three = (True, True, True, False)
    assert set(smaller) == {(False, True, False, False), three}
    assert chisquare([smaller[False, True, False, False], smaller[three]], [4000, 2000]).pvalue > 1e-3
    above = Counter(more for more, fewer in pairs if sum(fewer) == 1)
    assert len(above) == 7
    assert chisquare(list(above.values())).pvalue > 1e-3
    assert {more for more, fewer in pairs if fewer == three} == {(True,) * 4}


def test_a_sampler_that_gives_everything_leaves_any_pair():
    sampler = build_sampler("weights", BRATS_MODALITIES, subset_weights={"t1n+t1c+t2w+t2f": 1})
    pairs = draws(sampler, n=200)
    assert len(set(pairs)) > 30
    assert all(sum(fewer) < sum(more) for more, fewer in pairs)


@pytest.mark.parametrize("name", ["uniform", "by_count"])
def test_a_single_modality_has_no_pair(name):
    only = np.array([False, False, True, False])
    assert set(draws(build_sampler(name, BRATS_MODALITIES), only, n=20)) == {(tuple(only), tuple(only))}
