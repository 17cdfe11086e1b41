"""What is expected of a new row, and when to look."""

import math

import numpy as np
import pytest
from made_facts import MEANS, SUBSETS, make_facts

from nnunetv2_mstkd.trust.estimator import AGREEMENT, VOLUME, Estimator


def estimator(facts, *signals):
    return Estimator(facts.regions["WT"], facts.subsets, facts.patients, signals)


class TestSubsetAlone:
    def test_it_is_one_more_case_of_its_subset(self):
        facts = make_facts(40)
        fitted = estimator(facts)
        for subset in SUBSETS:
            dice = facts.regions["WT"].dice[facts.subsets == subset]
            found = fitted.estimate(subset, 5.0)
            assert found.median == pytest.approx(np.median(dice))
            assert found.interval.low == np.sort(dice)[1], "the second of forty"
            assert found.interval.high == np.sort(dice)[-2]
            assert (found.cases, found.patients) == (40, 40)

    def test_the_volume_changes_nothing(self):
        fitted = estimator(make_facts(25, by_volume=0.1))
        assert fitted.estimate("t1c", 0.1) == fitted.estimate("t1c", 100.0)

    def test_few_patients_have_a_wide_interval(self):
        found = estimator(make_facts(6)).estimate("t1c", 5.0)
        assert (found.interval.low, found.interval.high, found.interval.sides) == (0.0, 1.0, 0)

    def test_an_unknown_subset_is_not_known(self):
        assert not estimator(make_facts(6)).knows("t1n")


class TestSignals:
    def test_a_larger_tumour_is_expected_to_be_segmented_better_where_that_was_so(self):
        fitted = estimator(make_facts(60, by_volume=0.1), VOLUME)
        small, large = (fitted.estimate("t1c", volume) for volume in (3.0, 30.0))
        assert large.median > small.median + 0.1
        assert small.interval.high - small.interval.low < 0.4

    def test_folds_that_disagree_lower_what_is_expected(self):
        fitted = estimator(make_facts(60, noise=0.15, agreement=0.03), AGREEMENT)
        values = [fitted.estimate("t1c+t2f", 10.0, seen).median for seen in (0.3, 0.6, 0.9)]
        assert values == sorted(values)
        assert values[-1] - values[0] > 0.2

    def test_many_rows_are_answered_as_single_ones(self):
        facts = make_facts(30, agreement=0.05)
        found, fitted = facts.regions["WT"], estimator(facts, VOLUME, AGREEMENT)
        many = fitted.estimates(facts.subsets, found.predicted, found.agreement)
        for row in (0, 7, 50):
            one = fitted.estimate(facts.subsets[row], found.predicted[row], found.agreement[row])
            assert one.median == pytest.approx(many[row].median)

    def test_beyond_the_largest_measured_volume_nothing_is_extrapolated(self):
        facts = make_facts(60, by_volume=0.1)
        fitted, largest = estimator(facts, VOLUME), facts.regions["WT"].predicted.max()
        assert fitted.estimate("t1c", 1000 * largest) == fitted.estimate("t1c", largest)


class TestRule:
    def test_it_finds_as_many_bad_ones_of_new_patients_as_it_says(self):
        missed = []
        for seed in range(20):
            facts, new = (
                make_facts(60, agreement=0.05, seed=seed),
                make_facts(60, agreement=0.05, seed=99 + seed),
            )
            fitted, found = estimator(facts, AGREEMENT), new.regions["WT"]
            assert fitted.rule.miss_rate == 0.1
            told = fitted.estimates(new.subsets, found.predicted, found.agreement)
            bad = found.dice < 0.5
            missed += [t.median > fitted.rule.threshold for t, b in zip(told, bad, strict=True) if b]
        assert len(missed) > 200
        assert np.mean(missed) < 0.14

    def test_few_bad_ones_state_a_higher_miss_rate(self):
        facts = make_facts(30, noise=0.01)
        facts.regions["WT"].dice[[0, 3]] = 0.2
        rule = estimator(facts).rule
        assert (rule.bad, rule.bad_patients) == (2, 2)
        assert rule.miss_rate == pytest.approx(1 / 3)

    def test_without_a_bad_one_there_is_no_rule(self):
        rule = estimator(make_facts(30, noise=0.001)).rule
        assert rule.threshold is None
        assert math.isnan(rule.miss_rate)

    def test_scores_of_measured_rows_leave_their_patient_out(self):
        facts = make_facts(5, noise=0.0)
        facts.regions["WT"].dice[0] = 0.0  # t1c of the first patient
        assert estimator(facts).scores[0] == pytest.approx(MEANS["t1c"])
