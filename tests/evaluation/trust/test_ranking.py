"""ROC and risk-coverage, against counting by hand."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from nnunetv2_mstkd.evaluation.trust.ranking import area_under, auroc, risk_coverage, stratified_auroc


def test_auroc_equals_scikit_learns_with_ties():
    random = np.random.default_rng(0)
    scores, bad = np.round(random.random(200), 1), random.random(200) < 0.3
    assert auroc(scores, bad) == pytest.approx(roc_auc_score(bad, -scores))


def test_auroc_without_both_kinds_is_not_known():
    assert math.isnan(auroc(np.arange(4.0), np.zeros(4, dtype=bool)))


def test_strata_that_explain_everything_leave_a_coin_toss():
    scores, bad = np.array([0.1, 0.1, 0.9, 0.9]), np.array([True, False, True, False])
    strata = np.array([0, 0, 1, 1])
    assert stratified_auroc(scores, bad, strata) == 0.5
    assert stratified_auroc(np.array([0.1, 0.2, 0.8, 0.9]), bad, strata) == 1.0


def test_risk_coverage_of_perfect_and_of_useless_scores():
    risks = np.array([0.1, 0.4, 0.2, 0.9])
    coverage, risk = risk_coverage(1 - risks, risks)
    np.testing.assert_allclose(coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(risk, [0.1, 0.15, 0.7 / 3, 0.4])
    assert area_under(np.zeros(4), risks) == pytest.approx(risks.mean())
    assert area_under(1 - risks, risks) < area_under(risks, risks)
