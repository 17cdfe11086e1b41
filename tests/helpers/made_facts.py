"""Facts made up from seeded numbers: what they depend on is known."""

import numpy as np

from nnunetv2_mstkd.trust.facts import Facts, RegionFacts

SUBSETS = ("t1c", "t2f", "t1c+t2f")
MEANS = {"t1c": 0.55, "t2f": 0.65, "t1c+t2f": 0.8}


def make_facts(patients, *, noise=0.08, by_volume=0.0, agreement=None, seed=0, first=0) -> Facts:
    """Dice is a subset's mean, plus ``by_volume`` per standard deviation of the log volume, plus noise.

    ``agreement`` is the noise between Dice and the folds' agreement; None is one fold.
    """
    random = np.random.default_rng(seed)
    owners = np.repeat(np.arange(first, first + patients), len(SUBSETS))
    subsets = np.tile(np.array(SUBSETS, dtype=object), patients)
    size = np.repeat(random.normal(size=patients), len(SUBSETS))
    means = np.array([MEANS[subset] for subset in subsets])
    dice = np.clip(means + by_volume * size + noise * random.normal(size=len(owners)), 0, 1)
    reference = 10 * np.exp(size)
    predicted = reference * np.exp(0.1 * random.normal(size=len(owners)))
    seen = np.full(len(owners), np.nan)
    if agreement is not None:
        seen = np.clip(dice + agreement * random.normal(size=len(owners)), 0, 1)
    return Facts(
        subsets, owners, owners, {"WT": RegionFacts(dice, 10 * (1 - dice), reference, predicted, seen)}
    )
