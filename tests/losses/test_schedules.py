import math

import pytest

from nnunetv2_mstkd.losses.schedules import linear_rampup, sigmoid_rampup


def test_ramp_rises_from_e_to_the_minus_five_to_one():
    values = [sigmoid_rampup(epoch, 10) for epoch in range(15)]
    assert values[0] == pytest.approx(math.exp(-5))
    assert values == sorted(values)
    assert values[10:] == [1.0] * 5
    assert sigmoid_rampup(2.5, 10) == pytest.approx(math.exp(-5 * 0.75**2))


def test_ramp_without_length_and_before_its_start():
    assert sigmoid_rampup(0, 0) == 1
    assert sigmoid_rampup(-3, 10) == sigmoid_rampup(0, 10)


def test_the_straight_ramp_begins_at_nothing_and_stays_at_one():
    assert [linear_rampup(epoch, 4) for epoch in (-1, 0, 1, 2, 4, 9)] == [0, 0, 0.25, 0.5, 1, 1]
    assert linear_rampup(0, 0) == 1
