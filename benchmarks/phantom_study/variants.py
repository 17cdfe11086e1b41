"""Variants of MSTKD for finding out why it does or does not win; run by ``--parts diagnosis`` only.

All log the terms' gradient shares and cosines. Not among them: the temperature of the KL, which is no setting
(``distillation.config``), and ``teacher_on_incomplete``, which means nothing where every patient has every
modality.
"""

from __future__ import annotations

from benchmarks.phantom_study.arms import METHOD, WITH_FROZEN, Arm, Settings
from nnunetv2_mstkd.distillation import TERM_NAMES, ObjectiveConfig

EVERY = 25
_UNBOUNDED = (("gradient_shares_every", 0),)


def _only(*terms: str) -> Settings:
    """Settings that leave these distillation terms and the segmentation."""
    kept = {*terms, "segmentation", "teacher_segmentation"}
    return (("weights", {name: 0.0 for name in TERM_NAMES if name not in kept}),)


def _variant(key: str, title: str, settings: Settings = (), full: float = 0.5, seeds: int = 3) -> Arm:
    name = f"MSTKD: {title}"
    trainer = "nnUNetTrainerMSTKD"
    return Arm(key, name, trainer, full, WITH_FROZEN, seeds, settings=settings, log_shares=EVERY)


VARIANTS = {
    arm.key: arm
    for arm in (
        # The method once more: a log does not change the training, so it must equal seed 0 of it.
        _variant(f"{METHOD}_shares", "shares logged", seeds=1),
        # Unbounded, or the bound on a term's share would undo the weight.
        _variant("kl_x4", "KL weight x 4", (("weights", {"kl": 4 * ObjectiveConfig().kl}), *_UNBOUNDED)),
        _variant("kl_only", "KL only", _only("kl")),
        _variant("consistency_only", "consistency only", _only("consistency")),
        _variant("logits_only", "KL and consistency", _only("kl", "consistency")),
        _variant("unbounded", "terms not bounded", _UNBOUNDED),
        _variant("full_65", "full phase of 65 %", full=0.65),
    )
}
