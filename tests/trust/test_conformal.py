"""Order statistics that promise a coverage, against the promise."""

import math

import numpy as np
import pytest

from nnunetv2_mstkd.trust.conformal import (
    interval,
    lower_end,
    patient_weights,
    patients_needed,
    upper_end,
    weighted_median,
)


def each_its_own(count):
    return np.arange(count)


def test_the_numbers_of_patients_that_ends_need():
    assert (patients_needed(0.05), patients_needed(0.1)) == (19, 9)


def test_of_nineteen_patients_the_ends_are_the_extremes():
    values = np.random.default_rng(0).permutation(19).astype(float)
    found = interval(values, each_its_own(19))
    assert (found.low, found.high, found.sides) == (0.0, 18.0, 2)


def test_of_thirty_nine_patients_one_value_lies_beyond_each_end():
    found = interval(np.arange(39.0), each_its_own(39))
    assert (found.low, found.high) == (1.0, 37.0)


@pytest.mark.parametrize(("count", "low", "sides"), [(18, 0.0, 1), (9, 0.0, 1), (8, -math.inf, 0)])
def test_fewer_patients_lose_the_upper_end_then_both(count, low, sides):
    found = interval(np.arange(float(count)), each_its_own(count))
    assert (found.low, found.high, found.sides) == (low, math.inf, sides)


def test_many_cases_of_few_patients_are_few_patients():
    assert interval(np.arange(120.0), np.repeat(np.arange(8), 15)).sides == 0


def test_a_patient_counts_as_one_however_many_cases_it_has():
    patients = np.array([0] * 50 + list(range(1, 20)))
    values = np.array([0.0] * 50 + list(np.linspace(0.5, 0.9, 19)))
    assert patient_weights(patients).sum() == pytest.approx(20)
    assert weighted_median(values, patients) > 0.5
    assert lower_end(values, patients, 0.2) >= 0.5, "the one bad patient is a twentieth, not most of it"


def test_the_upper_end_mirrors_the_lower():
    values = np.random.default_rng(1).normal(size=57)
    assert upper_end(values, each_its_own(57), 0.07) == -lower_end(-values, each_its_own(57), 0.07)


def test_the_median_of_an_even_number_lies_between_the_middle_two():
    assert weighted_median(np.array([4.0, 1.0, 3.0, 2.0]), each_its_own(4)) == 2.5
    assert math.isnan(weighted_median(np.array([]), np.array([])))


@pytest.mark.parametrize("count", [12, 25, 60])
def test_a_new_patient_is_covered_as_often_as_promised(count):
    noise = np.random.default_rng(count)
    hits = []
    for _ in range(2000):
        values = noise.beta(5, 2, count + 1)  # skewed, as Dice is
        found = interval(values[:-1], each_its_own(count))
        hits.append(found.low <= values[-1] <= found.high)
    assert 0.88 <= np.mean(hits) <= 0.96
