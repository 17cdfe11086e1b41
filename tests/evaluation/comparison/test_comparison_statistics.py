"""The statistics against scipy, hand-computed values and known coverage."""

import warnings
from itertools import product

import numpy as np
import pytest
from scipy.stats import bootstrap, norm, rankdata, wilcoxon

from nnunetv2_mstkd.evaluation.comparison.statistics import (
    Bootstrap,
    group_means,
    holm,
    interval,
    known_mean,
    signed_rank_p,
    wins_ties_losses,
)


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


class TestHolm:
    def test_known_example(self):
        # 4 × 0.005, 3 × 0.01, then 2 × 0.03; 0.04 is raised to the one before it.
        assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])

    def test_never_above_one(self):
        assert holm(np.array([0.9, 0.6, 0.7])) == pytest.approx([1, 1, 1])

    def test_nan_is_no_test(self):
        corrected = holm(np.array([0.02, np.nan, 0.01]))
        assert corrected[[0, 2]] == pytest.approx([0.02, 0.02])
        assert np.isnan(corrected[1])

    def test_no_rows(self):
        assert holm(np.array([])).size == 0


class TestSignedRank:
    @pytest.mark.parametrize("count", [4, 6, 20, 80])
    def test_equals_scipy(self, count):
        differences = np.random.default_rng(count).normal(0.3, 1, count)
        assert signed_rank_p(differences) == pytest.approx(wilcoxon(differences).pvalue, rel=1e-12)

    @pytest.mark.parametrize("count", [5, 9, 12])
    def test_equals_all_signs_with_ties(self, count):
        """Scipy goes through all signs only where there are few patients, and slowly."""
        differences = np.random.default_rng(count).integers(-2, 4, count).astype(float)
        ranks = rankdata(np.abs(differences[differences != 0]))
        signs = np.array(list(product((0, 1), repeat=len(ranks))))
        sums, observed = signs @ ranks, ranks[differences[differences != 0] > 0].sum()
        tail = min((sums <= observed).mean(), (sums >= observed).mean())
        assert signed_rank_p(differences) == pytest.approx(min(1, 2 * tail), rel=1e-12)

    @pytest.mark.parametrize("count", [14, 50])
    def test_is_exact_where_all_are_equal(self, count):
        assert signed_rank_p(np.full(count, 0.5)) == pytest.approx(2 / 2**count)

    @pytest.mark.parametrize(("count", "smallest"), [(2, 0.5), (3, 0.25), (5, 0.0625), (6, 0.03125)])
    def test_few_patients_cannot_be_significant(self, count, smallest):
        assert signed_rank_p(np.arange(1.0, count + 1)) == pytest.approx(smallest)

    def test_equal_runs(self):
        assert signed_rank_p(np.zeros(8)) == 1

    def test_rounding_is_no_difference(self):
        assert signed_rank_p(np.full(30, 0.1 + 0.2 - 0.3)) == 1

    def test_one_patient(self):
        assert signed_rank_p(np.array([0.2])) == 1

    def test_one_difference_among_ties(self):
        assert signed_rank_p(np.array([0.2, 0, 0, 0])) == 1

    def test_nobody(self):
        assert np.isnan(signed_rank_p(np.array([np.nan])))

    def test_nan_is_left_out(self):
        assert signed_rank_p(np.array([1.0, 2, 3, np.nan, 4, 5, 6])) == pytest.approx(0.03125)


class TestBootstrap:
    def test_covers_the_true_mean_as_often_as_it_says(self):
        noise = np.random.default_rng(7)
        samples = noise.normal(0.5, 1, (40, 400))  # 400 studies of 40 patients
        low, high = interval(Bootstrap(40, seed=0, resamples=1000).means(samples))
        coverage = ((low <= 0.5) & (high >= 0.5)).mean()
        assert 0.90 <= coverage <= 0.97  # a percentile interval of 40 is a little too narrow

    def test_agrees_with_scipy_and_theory(self):
        values = np.random.default_rng(1).normal(size=200)
        low, high = interval(Bootstrap(200, seed=0, resamples=5000).means(values[:, None]))
        theirs = bootstrap(
            (values,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(2)
        ).confidence_interval
        half = norm.ppf(0.975) * values.std() / np.sqrt(200)
        assert (low[0], high[0]) == pytest.approx((theirs.low, theirs.high), abs=0.01)
        assert (low[0], high[0]) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)

    def test_same_seed_same_interval_whatever_else_is_resampled(self):
        values = np.random.default_rng(3).normal(size=(12, 5))
        whole = Bootstrap(12, seed=4, resamples=1500).means(values)
        assert np.array_equal(Bootstrap(12, seed=4, resamples=1500).means(values), whole)
        assert Bootstrap(12, seed=4, resamples=1500).means(values[:, [2]]) == pytest.approx(whole[:, [2]])
        assert not np.allclose(Bootstrap(12, seed=5, resamples=1500).means(values), whole)

    def test_nan_values_are_left_out_of_each_resample(self):
        values = np.array([[1.0, 5.0], [3.0, np.nan]])
        means = Bootstrap(2, seed=0, resamples=400).means(values)
        assert set(means[:, 0]) == {1, 2, 3}
        assert set(means[~np.isnan(means[:, 1]), 1]) == {5}
        low, high = interval(means)
        assert (low[1], high[1]) == (5, 5)

    def test_interval_of_a_column_without_values(self):
        low, high = interval(np.full((10, 1), np.nan))
        assert np.isnan(low[0])
        assert np.isnan(high[0])


def test_means_over_what_is_known():
    values = np.array([[1.0, np.nan], [3.0, np.nan]])
    assert known_mean(values, axis=0)[0] == 2
    assert np.isnan(known_mean(values, axis=0)[1])
    grouped = group_means(np.array([[1.0], [3.0], [np.nan], [8.0]]), np.array([0, 0, 1, 1]), 3)
    assert grouped[:2, 0].tolist() == [2, 8]
    assert np.isnan(grouped[2, 0])


def test_wins_turn_round_where_less_is_better():
    differences = np.array([0.1, 0.0, -0.2, -0.3, np.nan, 0.1 + 0.2 - 0.3])
    assert wins_ties_losses(differences, 1) == (1, 2, 2)
    assert wins_ties_losses(differences, -1) == (2, 2, 1)
