"""Small changes to the bar, one at a time, at its compute; by ``--parts challengers``."""

from __future__ import annotations

from benchmarks.study.arms import ARMS, BAR

_BAR = ARMS[BAR]

CHALLENGERS = {
    arm.key: arm
    for arm in (
        _BAR.changed("bar_conditioned", "the bar, conditioned on absence", (("conditioning", "absence"),)),
        _BAR.changed("bar_averaged", "the bar, average of the weights", (("weight_average", 0.98),)),
    )
}
