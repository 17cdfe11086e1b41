"""Small changes to the bar, one at a time, at its compute; by ``--parts challengers``."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.study.arms import ARMS, BAR

_BAR = ARMS[BAR]
# One patch twice in the batch: the steps cost what the bar's cost, and see half as many patches. The bound on
# the KL's share is checked more often than by default, for so few steps.
_PAIRS = replace(
    _BAR,
    trainer="nnUNetTrainerMSTKD",
    settings=(("teacher", "nested"), ("gradient_shares_every", 50)),
)
_NOTHING_LEADS = {"foreground_kl": 0, "more_vs_fewer": 0}

CHALLENGERS = {
    arm.key: arm
    for arm in (
        _BAR.changed("bar_conditioned", "the bar, conditioned on absence", (("conditioning", "absence"),)),
        _BAR.changed("bar_borrowed", "the bar, borrowed features", (("borrowing", "stem"),)),
        _BAR.changed(
            "bar_borrowed_conditioned",
            "the bar, borrowed features and conditioned on absence",
            (("borrowing", "stem"), ("conditioning", "absence")),
        ),
        _BAR.changed("bar_averaged", "the bar, average of the weights", (("weight_average", 0.98),)),
        _PAIRS.changed("bar_nested", "the bar, nested pairs with KL and hinge", ()),
        _PAIRS.changed(
            "bar_hinge", "the bar, nested pairs with the hinge", (("weights", {"foreground_kl": 0}),)
        ),
        _PAIRS.changed("bar_pairs", "the bar, nested pairs alone (control)", (("weights", _NOTHING_LEADS),)),
        _BAR.changed("bar_singles", "the bar, single sequences twice as often", (("single_weight", 2),)),
        _BAR.changed(
            "bar_reconstruction",
            "the bar, full phase on masked input with reconstruction",
            (("full_phase_task", "reconstruction"),),
        ),
        _BAR.changed("bar_difficulty", "the bar, subsets by difficulty", (("sampler", "difficulty"),)),
    )
}
