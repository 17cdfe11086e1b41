"""Variants for finding out why MSTKD does or does not win; run by ``--parts diagnosis restart`` only.

Those of the objective log the terms' gradient shares and cosines. Not among them: the temperature of the
KL, which is no setting (``distillation.config``), and ``teacher_on_incomplete``, which means nothing where
every patient has every modality.
"""

from __future__ import annotations

from benchmarks.study.arms import ARMS, BAR, METHOD, WITH_FROZEN, Arm, Settings
from nnunetv2_mstkd.methods.mstkd.weights import TERM_NAMES, ObjectiveConfig

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


def _stronger_kl(factor: int) -> Arm:
    # Unbounded, or the bound on a term's share would undo the weight.
    settings = (("weights", {"kl": factor * ObjectiveConfig().kl}), *_UNBOUNDED)
    return _variant(f"kl_x{factor}", f"KL weight x {factor}", settings)


def _restart(key: str, share: float) -> Arm:
    """An arm with a full phase, at another learning rate when masking starts."""
    arm = ARMS[key]
    title = f"{arm.title}, restart at {share:g}"
    return arm.changed(f"{key}_lr_{share:g}", title, (("lr_restart", share),))


# Share of the learning rate at which masking starts, instead of one decay over both phases.
RESTARTS = {arm.key: arm for key in (BAR, METHOD) for arm in (_restart(key, s) for s in (0.2, 0.5, 1.0))}

VARIANTS = {
    arm.key: arm
    for arm in (
        # The method once more: a log does not change the training, so it must equal seed 0 of it.
        _variant(f"{METHOD}_shares", "shares logged", seeds=1),
        _stronger_kl(4),
        _stronger_kl(16),
        _variant("kl_only", "KL only", _only("kl")),
        _variant("consistency_only", "consistency only", _only("consistency")),
        _variant("logits_only", "KL and consistency", _only("kl", "consistency")),
        _variant("unbounded", "terms not bounded", _UNBOUNDED),
        _variant("full_65", "full phase of 65 %", full=0.65),
    )
}
