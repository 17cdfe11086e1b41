"""Small changes to the bar, one at a time, at its compute; by ``--parts challengers``."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.phantom_study.arms import ARMS, BAR, Arm, Settings


def _challenger(key: str, title: str, settings: Settings) -> Arm:
    bar = ARMS[BAR]
    return replace(bar, key=key, title=f"the bar, {title}", settings=(*bar.settings, *settings))


CHALLENGERS = {
    arm.key: arm
    for arm in (
        _challenger("bar_conditioned", "conditioned on absence", (("conditioning", "absence"),)),
        _challenger("bar_averaged", "average of the weights", (("weight_average", 0.98),)),
    )
}
