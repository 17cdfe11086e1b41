"""Lesion-wise scores: cases computed by hand, a plain second implementation, and the rules as data."""

import math

import cc3d
import numpy as np
import pytest
from medpy.metric.binary import hd95 as medpy_hd95
from scipy.ndimage import binary_dilation, gaussian_filter, generate_binary_structure

from nnunetv2_mstkd.evaluation.metrics.lesionwise import (
    DEFAULT_RULES,
    RULES,
    LesionScore,
    score_lesions,
)

GLI, MET = RULES["brats2023-gli"], RULES["brats2023-met"]
SPACING = (1.0, 1.0, 1.0)


def volume(*boxes, shape=(30, 30, 40)):
    """True inside of boxes, each given as (first voxel, edge lengths)."""
    mask = np.zeros(shape, dtype=bool)
    for corner, size in boxes:
        mask[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))] = True
    return mask


CUBE = ((5, 5, 5), (4, 4, 4))  # 64 voxels: above GLI's 50
FAR = ((20, 20, 30), (4, 4, 4))


def test_the_rules_are_those_of_the_challenge():
    numbers = {name.removeprefix("brats2023-"): (r.dilation, r.minimum_volume) for name, r in RULES.items()}
    assert numbers == {"gli": (3, 50), "ssa": (3, 50), "ped": (3, 50), "men": (1, 50), "met": (1, 2)}
    for rules in RULES.values():
        assert (rules.dilation_connectivity, rules.component_connectivity) == (2, 3)
        assert (rules.penalty_dice, rules.penalty_hd95) == (0.0, 374.0)
        assert rules.source.startswith("https://github.com/rachitsaluja/BraTS-2023-Metrics/blob/")
    assert DEFAULT_RULES in RULES


def test_found_exactly():
    mask = volume(CUBE, FAR)
    assert score_lesions(mask, mask, SPACING, GLI) == LesionScore(
        1.0, 0.0, lesions=2, missed=0, false=0, small=0
    )


def test_a_missed_lesion():
    score = score_lesions(volume(CUBE), volume(CUBE, FAR), SPACING, GLI)
    assert score == LesionScore(dice=0.5, hd95=187.0, lesions=2, missed=1, false=0, small=0)


def test_a_false_lesion():
    # One voxel is enough: the minimum volume is for reference lesions.
    score = score_lesions(volume(CUBE, ((20, 20, 30), (1, 1, 1))), volume(CUBE), SPACING, GLI)
    assert score == LesionScore(dice=0.5, hd95=187.0, lesions=1, missed=0, false=1, small=0)


def test_only_false_lesions():
    score = score_lesions(volume(CUBE, FAR), volume(), SPACING, GLI)
    assert score == LesionScore(dice=0.0, hd95=374.0, lesions=0, missed=0, false=2, small=0)


def test_nothing_there_and_nothing_found():
    score = score_lesions(volume(), volume(), SPACING, GLI)
    assert score == LesionScore(dice=1.0, hd95=0.0, lesions=0, missed=0, false=0, small=0)


@pytest.mark.parametrize(("gap", "lesions"), [(1, 1), (6, 1), (7, 2)])
def test_dilation_merges_lesions(gap, lesions):
    # 3 voxels grow from either side: at 6 voxels between them the dilations touch, at 7 they do not.
    reference = volume(CUBE, ((5, 5, 9 + gap), (4, 4, 4)))
    score = score_lesions(volume(CUBE), reference, SPACING, GLI)
    if lesions == 1:  # half of one lesion was found: 2·64 / (64 + 128)
        assert (score.lesions, score.missed) == (1, 0)
        assert score.dice == pytest.approx(2 / 3)
    else:
        assert (score.lesions, score.missed, score.dice) == (2, 1, 0.5)


def test_merging_is_the_challenges_own():
    reference = volume(CUBE, ((5, 5, 12), (4, 4, 4)))  # 3 voxels between them
    assert score_lesions(reference, reference, SPACING, GLI).lesions == 1
    assert score_lesions(reference, reference, SPACING, RULES["brats2023-men"]).lesions == 2


@pytest.mark.parametrize(("edge", "small"), [((5, 5, 2), 1), ((3, 17, 1), 0)])
def test_lesions_of_50_voxels_are_not_scored(edge, small):
    tiny = ((20, 5, 30), edge)  # 50 and 51 voxels
    score = score_lesions(volume(CUBE), volume(CUBE, tiny), SPACING, GLI)
    assert (score.small, score.lesions, score.missed) == (small, 2 - small, 1 - small)
    assert score.dice == (1.0 if small else 0.5)


def test_what_touches_a_tiny_lesion_is_not_false():
    tiny = ((20, 20, 30), (2, 2, 2))
    score = score_lesions(volume(CUBE, tiny), volume(CUBE, tiny), SPACING, GLI)
    assert score == LesionScore(dice=1.0, hd95=0.0, lesions=1, missed=0, false=0, small=1)


def test_the_minimum_is_a_volume():
    tiny = volume(((20, 20, 30), (2, 2, 2)))
    assert score_lesions(tiny, tiny, (2.0, 2.0, 2.0), GLI).lesions == 1  # 64 mm³
    assert score_lesions(tiny, tiny, (1.0, 1.0, 1.0), GLI).lesions == 0  # 8 mm³
    fifty = volume(((20, 20, 30), (5, 5, 2)))
    assert score_lesions(fifty, fifty, (1.0000001, 1.0, 1.0), GLI).lesions == 0  # a header's rounding


def test_a_component_that_touches_two_lesions():
    # A bar of 4×4×20 over both cubes, which lie 12 voxels apart: too far to be merged.
    reference = volume(CUBE, ((5, 5, 21), (4, 4, 4)))
    score = score_lesions(volume(((5, 5, 5), (4, 4, 20))), reference, SPACING, GLI)
    assert (score.lesions, score.missed, score.false) == (2, 0, 0)
    assert score.dice == pytest.approx(2 * 64 / (64 + 320))  # the whole bar, once for each cube


def test_two_components_in_one_lesion():
    bar = ((5, 5, 5), (4, 4, 12))
    ends = volume(((5, 5, 5), (4, 4, 4)), ((5, 5, 13), (4, 4, 4)))
    score = score_lesions(ends, volume(bar), SPACING, GLI)
    assert (score.lesions, score.false) == (1, 0)
    assert score.dice == pytest.approx(2 * 128 / (128 + 192))


@pytest.mark.parametrize(("gap", "false"), [(2, 0), (3, 1)])
def test_a_component_near_a_lesion_belongs_to_it(gap, false):
    # The dilated lesion reaches 3 voxels: with 2 between the two it covers the first of it, with 3 none.
    beside = ((5, 5, 9 + gap), (4, 4, 4))
    score = score_lesions(volume(beside), volume(CUBE), SPACING, GLI)
    assert (score.missed, score.false, score.dice) == (false, false, 0.0)
    assert score.hd95 == pytest.approx(374.0 if false else medpy_hd95(volume(beside), volume(CUBE)))


def test_diagonal_neighbours_are_one_component():
    corners = volume(((5, 5, 5), (2, 2, 2)), ((7, 7, 7), (2, 2, 2)))
    assert score_lesions(corners, volume(FAR), SPACING, GLI).false == 1


def plain(prediction, reference, spacing, rules):
    """The rules once more: whole arrays, one loop, other libraries."""
    near = generate_binary_structure(3, 2)
    grown = binary_dilation(reference, near, rules.dilation)
    lesions = cc3d.connected_components(grown, connectivity=26) * reference
    components = cc3d.connected_components(prediction, connectivity=26)
    dices, distances, matched = [], [], set()
    for number in range(1, int(lesions.max()) + 1):
        lesion = lesions == number
        own = set(np.unique(components[binary_dilation(lesion, near, rules.dilation)])) - {0}
        matched |= own
        if lesion.sum() * np.prod(spacing) <= rules.minimum_volume:
            continue
        found = np.isin(components, list(own))
        dices.append(2 * (found & lesion).sum() / (found.sum() + lesion.sum()) if own else 0)
        distances.append(medpy_hd95(found, lesion, spacing) if own else 374)
    false = int(components.max()) - len(matched)
    total = len(dices) + false
    if not total:
        return 1.0, 0.0, 0
    return sum(dices) / total, (sum(distances) + 374 * false) / total, false


@pytest.mark.parametrize("rules", [GLI, MET], ids=["gli", "met"])
@pytest.mark.parametrize("seed", range(5))
def test_random_shapes_against_a_plain_implementation(seed, rules):
    noise = np.random.default_rng(seed)
    shape, spacing = (30, 44, 52), (2.0, 1.0, 0.75)
    field = gaussian_filter(noise.standard_normal(shape), 1.5)
    other = field + 0.7 * gaussian_filter(noise.standard_normal(shape), 1.5)
    prediction, reference = other > 0.30, field > 0.22
    score = score_lesions(prediction, reference, spacing, rules)
    dice, hd95, false = plain(prediction, reference, spacing, rules)
    assert min(score.lesions, score.false, score.small) > 0  # the shapes say something
    assert (score.dice, score.hd95, score.false) == (pytest.approx(dice), pytest.approx(hd95), false)


# The steps of the challenge's eval.py (at the commit in lesion_rules.json), typed again and run once on
# `random_boxes` with cc3d 4.1 and surface-distance 0.1: Dice, HD95, scored lesions, false lesions.
OFFICIAL = {
    ("brats2023-gli", 0): (0.490322581, 6.403124237, 1, 0),
    ("brats2023-men", 0): (0.394333756, 126.0, 3, 0),
    ("brats2023-met", 0): (0.268595449, 63.833333333, 6, 0),
    ("brats2023-gli", 1): (0.137853097, 190.157536453, 2, 2),
    ("brats2023-men", 1): (0.140816327, 190.024876235, 2, 2),
    ("brats2023-met", 1): (0.192283163, 188.887438117, 6, 2),
    ("brats2023-gli", 2): (0.263855952, 128.876715271, 2, 1),
    ("brats2023-men", 2): (0.281185984, 151.379795897, 3, 2),
    ("brats2023-met", 2): (0.291068621, 95.266880933, 6, 2),
    ("brats2023-gli", 3): (0.130485437, 78.30042875, 4, 1),
    ("brats2023-men", 3): (0.108737864, 188.849836586, 4, 2),
    ("brats2023-met", 3): (0.093203883, 215.299859931, 5, 2),
}


def random_boxes(seed, shape=(28, 40, 44)):
    """Nine boxes, some only predicted, some only in the reference: whole numbers, so the same everywhere."""
    noise = np.random.default_rng(seed)
    masks = np.zeros((2, *shape), dtype=bool)
    for _ in range(9):
        corner, size = noise.integers(0, [n - 9 for n in shape]), noise.integers(1, 9, 3)
        moved, kind = noise.integers(-2, 3, 3), noise.integers(0, 5)
        for mask, start, there in (
            (masks[1], corner, kind != 0),
            (masks[0], np.maximum(corner + moved, 0), kind != 1),
        ):
            if there:
                mask[tuple(slice(a, a + b) for a, b in zip(start, size, strict=True))] = True
    return masks


@pytest.mark.parametrize(("name", "seed"), OFFICIAL)
def test_golden_numbers_of_the_challenges_steps(name, seed):
    score = score_lesions(*random_boxes(seed), SPACING, RULES[name])
    dice, hd95, lesions, false = OFFICIAL[name, seed]
    assert (score.dice, score.lesions, score.false) == (pytest.approx(dice, abs=1e-8), lesions, false)
    # The challenge weights surface elements by area and takes the larger of the two directions.
    assert score.hd95 == pytest.approx(hd95, abs=1.5)


def test_two_dimensions():
    reference = volume(((2, 2), (8, 8)), ((30, 30), (8, 8)), shape=(40, 40))
    prediction = volume(((2, 2), (8, 4)), shape=(40, 40))
    score = score_lesions(prediction, reference, (1.0, 1.0), GLI)
    assert (score.lesions, score.missed) == (2, 1)
    assert score.dice == pytest.approx((2 * 32 / 96) / 2)
    assert math.isfinite(score.hd95)
