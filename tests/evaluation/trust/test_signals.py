"""What a Dice depends on is shown where it does, and not where it does not."""

import numpy as np
from made_facts import make_facts

from nnunetv2_mstkd.evaluation.trust.signals import parts_of, show_signals
from nnunetv2_mstkd.trust.estimator import AGREEMENT, VOLUME


def test_a_volume_that_matters_is_shown_to():
    shown = show_signals(make_facts(60, by_volume=0.12, noise=0.04), "WT")
    assert (shown.signals, shown.beyond_chance) == ((VOLUME,), True)
    for mean, low, high in shown.changes[VOLUME].values():
        assert low <= mean <= high < 0


def test_a_volume_that_does_not_matter_is_not():
    shown = [show_signals(make_facts(40, seed=seed), "WT") for seed in range(6)]
    assert sum(found.beyond_chance for found in shown) <= 1
    assert sum(bool(found.signals) for found in shown) <= 4, "a coin toss at most, where nothing helps"


def test_an_agreement_that_matters_is_shown_to():
    shown = show_signals(make_facts(60, noise=0.15, agreement=0.03), "WT")
    assert AGREEMENT in shown.signals


def test_few_patients_show_nothing():
    assert show_signals(make_facts(9, by_volume=0.12), "WT").signals == ()


def test_parts_deal_each_patient_once():
    patients = np.repeat(np.arange(13), 4)
    parts = list(parts_of(patients, seed=3))
    np.testing.assert_array_equal(np.sum(parts, axis=0), 1)
    for part in parts:
        assert not set(patients[part]) & set(patients[~part])
