"""The importance of a modality, against numbers made by hand; and columns by the number of modalities."""

import numpy as np
import pandas as pd
import pytest

from nnunetv2_mstkd.evaluation.comparison.compare import compare_runs
from nnunetv2_mstkd.evaluation.comparison.loading import load_runs
from nnunetv2_mstkd.evaluation.figures.data import columns_by_count, mean_and_interval, patients_dice
from nnunetv2_mstkd.evaluation.figures.importance import drops, removal_pairs

# Dice of patient P-000 per subset; patient P-001 has 0.1 less everywhere, and 0.3 less with both.
DICE = {"CT": 0.5, "PET": 0.6, "CT+PET": 0.9}


@pytest.fixture
def toy(evaluation):
    folder = evaluation("toy", modalities=("CT", "PET"), patients=2)
    table = pd.read_csv(folder / "metrics.csv", dtype={"case": str, "patient": str})
    lower = np.where(table["subset"] == "CT+PET", 0.3, 0.1) * (table["patient"] == "P-001")
    table.assign(dice=table["subset"].map(DICE) - lower).to_csv(folder / "metrics.csv", index=False)
    return compare_runs(load_runs([str(folder)], ["toy"]), resamples=200)


def test_pairs_are_a_subset_and_the_same_without_the_modality():
    subsets = ["b", "a", "c", "a+b", "a+b+c"]
    assert removal_pairs(subsets, "a") == [(3, 0)]
    assert removal_pairs(subsets, "b") == [(3, 1)]
    assert removal_pairs(subsets, "c") == [(4, 3)]


def test_the_drop_is_that_of_the_toy(toy):
    dice = patients_dice(toy, ["toy"])
    for modality, expected in (("CT", (30.0, 10.0)), ("PET", (40.0, 20.0))):
        fall = drops(dice, removal_pairs(toy.subsets, modality))
        assert fall.shape == (1, 3, 2)
        np.testing.assert_allclose(fall[0, 0], expected)


def test_a_pair_with_an_unknown_score_is_left_out():
    dice = np.array([10.0, 30.0, 20.0, np.nan]).reshape(1, 1, 4, 1)
    assert drops(dice, [(1, 0), (3, 2)]).item() == 20
    assert np.isnan(drops(dice, [(3, 2)])).item()


def test_intervals_are_over_patients(toy):
    mean, low, high = mean_and_interval(np.array([[30.0, 10.0], [20.0, 20.0]]), toy)
    np.testing.assert_allclose(mean, [20, 20])
    np.testing.assert_allclose((low[0], high[0], low[1], high[1]), (10, 30, 20, 20))
    _, low, high = mean_and_interval(np.array([[30.0, np.nan]]), toy)
    assert np.isnan(low).all()
    assert np.isnan(high).all()


def test_columns_by_count_average_the_subsets_of_that_number(toy):
    columns = columns_by_count(toy)
    assert columns.labels == ("1", "2")
    values = columns.mean(patients_dice(toy, ["toy"]), axis=2)
    np.testing.assert_allclose(values[0, 0], [[55, 45], [90, 60]])
