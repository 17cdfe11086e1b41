"""The check says of made-up facts what is true of them."""

import numpy as np
import pytest
from made_facts import make_facts

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.trust.check import EXPECTED, check, summarise, transported
from nnunetv2_mstkd.evaluation.trust.wording import how_it_held
from nnunetv2_mstkd.trust.estimator import AGREEMENT, VOLUME


@pytest.fixture(scope="module")
def checked():
    return check(make_facts(45, noise=0.1, by_volume=0.08, agreement=0.06), "WT", repeats=1)


def test_coverage_is_near_what_was_promised(checked):
    value, low, high = checked.coverage
    assert 0.84 < value < 0.97
    assert low < value < high
    assert checked.without_interval == 0


def test_counts_are_those_of_the_facts(checked):
    assert (checked.patients, checked.rows) == (45, 135)
    assert sum(checked.signals.values()) == 5, "one choice per part"


def test_expected_dice_beats_the_volume_where_folds_disagree_about_bad_cases(checked):
    assert checked.auroc[EXPECTED][0] > checked.auroc[VOLUME][0]
    assert checked.against[VOLUME][1] > 0
    assert checked.aurc["best possible"] <= checked.aurc[EXPECTED] < checked.aurc["by chance"]
    assert AGREEMENT in checked.auroc


def test_the_curve_ends_at_the_mean_risk(checked):
    for curve in checked.curves.values():
        assert curve[-1] == pytest.approx(checked.curves["by chance"][-1])


def test_too_few_patients_have_no_interval_and_say_so():
    found = check(make_facts(7), "WT", repeats=1)
    assert found.without_interval == 1
    assert np.isnan(found.coverage[0])


def test_subsets_of_one_patient_are_left_out_and_counted():
    facts = make_facts(20)
    facts.subsets[facts.patients == 0] = "t1n"
    found = check(facts, "WT", repeats=2)
    assert (found.patients, found.untold) == (19, 3)
    assert EXPECTED in found.auroc
    assert "WT: 3 rows left out, of subsets that no other patient has" in how_it_held([found], "how")


def test_one_patient_checks_nothing():
    with pytest.raises(MSTKDError, match="nothing can be checked of WT: no patient has a subset that"):
        check(make_facts(1), "WT", repeats=1)


def test_agreement_that_was_not_recorded_is_no_agreement_of_zero():
    known, other = make_facts(40, agreement=0.06), make_facts(10, seed=5, first=100)
    other.regions["WT"].agreement[:] = np.nan
    with pytest.raises(MSTKDError, match="goes by how far folds agree about WT"):
        transported(known, (AGREEMENT,), other, "WT")


def test_other_patients_that_are_worse_show_a_coverage_that_does_not_hold():
    known, other = make_facts(40), make_facts(40, seed=5, first=100)
    other.regions["WT"].dice[:] = np.clip(other.regions["WT"].dice - 0.3, 0, 1)
    found = summarise([transported(known, (), other, "WT")], "WT")
    assert found.coverage[2] < 0.5
