import math

import numpy as np
import pytest

from nnunetv2_mstkd.modalities import BRATS_MODALITIES, all_subsets
from nnunetv2_mstkd.trainers.subset_validation import SubsetDice, SubsetRotation

T1C, FLAIR = frozenset({"t1c"}), frozenset({"t2f"})


def test_enough_batches_show_every_subset_every_epoch():
    rotation = SubsetRotation(BRATS_MODALITIES, 50)
    for epoch in (0, 1, 7):
        shown = [rotation.subset(epoch, i) for i in range(50)]
        assert set(shown) == set(all_subsets(BRATS_MODALITIES))


@pytest.mark.parametrize("batches", [2, 3, 4, 5, 14])
def test_few_batches_go_round_over_epochs_and_always_show_the_full_set(batches):
    rotation = SubsetRotation(BRATS_MODALITIES, batches)
    epochs = [[rotation.subset(e, i) for i in range(batches)] for e in range(20)]
    assert all(rotation.full in shown for shown in epochs)
    assert {s for shown in epochs for s in shown} == set(all_subsets(BRATS_MODALITIES))


def test_rotation_is_deterministic():
    first, second = SubsetRotation(("T2", "ADC"), 5), SubsetRotation(("T2", "ADC"), 5)
    assert [first.subset(3, i) for i in range(5)] == [second.subset(3, i) for i in range(5)]


def test_dice_by_hand():
    dice = SubsetDice.empty()
    dice.add(T1C, [[3, 0], [1, 0], [1, 0]])  # second class absent everywhere: nan
    dice.add(T1C, [[1, 0], [1, 0], [1, 0]])
    dice.add(FLAIR, [[0, 2], [4, 0], [0, 2]])
    assert dice.dice(T1C)[0] == pytest.approx(8 / 12)
    assert math.isnan(dice.dice(T1C)[1])
    assert dice.mean_foreground(FLAIR) == pytest.approx((0 + 4 / 6) / 2)
    assert dice.mean() == pytest.approx((8 / 12 + 1 / 3) / 2)
    np.testing.assert_allclose(dice.mean_per_class(), [(8 / 12 + 0) / 2, 4 / 6])
    assert math.isnan(dice.mean_foreground(frozenset(BRATS_MODALITIES)))


def test_merge_adds_counts_of_another_process():
    one, other = SubsetDice.empty(), SubsetDice.empty()
    one.add(T1C, [[1], [0], [1]])
    other.add(T1C, [[1], [2], [1]])
    other.add(FLAIR, [[1], [0], [0]])
    one.merge(other)
    assert one.dice(T1C)[0] == pytest.approx(4 / 8)
    assert set(one.counts) == {T1C, FLAIR}
