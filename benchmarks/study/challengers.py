"""Small changes to the bar, one at a time and conditioning with another, at its compute; by ``--parts
challengers``."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.study.arms import ARMS, BAR, METHOD, WITH_FROZEN

_BAR = ARMS[BAR]
# One patch twice in the batch: the steps cost what the bar's cost, and see half as many patches. The bound on
# the KL's share is checked more often than by default, for so few steps.
_PAIRS = replace(
    _BAR,
    trainer="nnUNetTrainerMSTKD",
    settings=(("teacher", "nested"), ("gradient_shares_every", 50)),
)
_CONDITIONED = (("conditioning", "absence"),)
_SHORT_FULL = replace(_BAR, full_share=0.25)
# nnU-Net's own network under the bar's phases and optimizer. Its steps are counted by multiply-adds.
_UNET = replace(_BAR, network="plans", step_cost=None)
_NOTHING_LEADS = {"foreground_kl": 0, "more_vs_fewer": 0}

CHALLENGERS = {
    arm.key: arm
    for arm in (
        _BAR.changed("bar_conditioned", "the bar, conditioned on absence", _CONDITIONED),
        _BAR.changed("bar_borrowed", "the bar, borrowed features", (("borrowing", "stem"),)),
        _BAR.changed(
            "bar_borrowed_conditioned",
            "the bar, borrowed features and conditioned on absence",
            (("borrowing", "stem"), *_CONDITIONED),
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
        _SHORT_FULL.changed("bar_short_full", "the bar, full phase of 25 %", ()),
        replace(_BAR, full_share=0.125).changed("bar_eighth_full", "the bar, full phase of 12.5 %", ()),
        # Where the full phase is short for the bar, it is for the method too.
        replace(ARMS[METHOD], full_share=0.25).changed(
            "mstkd_short_full", "MSTKD (warm start), full phase of 25 %", ()
        ),
        _BAR.changed(
            "bar_conditioned_averaged",
            "the bar, conditioned on absence, average of the weights",
            (*_CONDITIONED, ("weight_average", 0.98)),
        ),
        _BAR.changed(
            "bar_conditioned_singles",
            "the bar, conditioned on absence, single sequences twice as often",
            (*_CONDITIONED, ("single_weight", 2)),
        ),
        _SHORT_FULL.changed(
            "bar_conditioned_short_full",
            "the bar, conditioned on absence, full phase of 25 %",
            _CONDITIONED,
        ),
        _PAIRS.changed(
            "bar_conditioned_nested",
            "the bar, conditioned on absence, nested pairs with KL and hinge",
            _CONDITIONED,
        ),
        _UNET.changed("unet_dropout", "nnU-Net's network", ()),
        _UNET.changed(
            "unet_conditioned",
            "nnU-Net's network, conditioned on absence",
            _CONDITIONED,
        ),
        # A step costs four times as much as MSTKDNet's on large patches, and less on the study's small ones:
        # there equal compute buys more steps, which may be all that counts.
        replace(_BAR, network="plans", steps_like=BAR).changed(
            "unet_dropout_steps", "nnU-Net's network, the bar's steps", ()
        ),
        replace(_UNET, own_optimizer=True).changed("unet_dropout_sgd", "nnU-Net's network, SGD", ()),
        replace(_UNET, trainer="nnUNetTrainerMSTKDUNet", full_cost=1 / WITH_FROZEN).changed(
            "unet_mstkd", "nnU-Net's network, MSTKD", ()
        ),
    )
}
