"""Arms of the methods with a network of their own, in the place of MSTKDNet; by ``--parts methods``.

Equal compute, counted: as many steps as the multiply-adds of the bar's steps pay for. Their encoders are one
per modality, so at the width of MSTKDNet a step costs up to eight times its step: the arms are narrow, near
its cost, and for four of them one more arm is wide, near its number of parameters.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.study.arms import Arm, Settings

# Name, trainer without its prefix, settings of the narrow arm.
_NARROW: tuple[tuple[str, str, Settings], ...] = (
    ("RFNet", "RFNet", (("base_features", 4),)),
    ("mmFormer", "MMFormer", (("base_features", 4), ("token_features", 128))),
    ("M2FTrans", "M2FTrans", (("base_features", 4), ("mlp_features", 1024))),
    ("RA-HVED", "RAHVED", (("base_features", 4),)),
    ("RMBTS", "RMBTS", (("base_features", 4),)),
    # Group norms of 8 groups: no fewer channels.
    ("ACN", "ACN", (("base_features", 8),)),
    ("SMU-Net", "SMUNet", (("base_features", 8),)),
    ("IM-Fuse", "IMFuse", (("base_features", 3),)),
    ("DeMoSeg", "DeMoSeg", (("base_features", 12),)),
)
_WIDE: dict[str, Settings] = {
    "RFNet": (("base_features", 8),),
    "M2FTrans": (("base_features", 8), ("mlp_features", 1024)),
    "RA-HVED": (("base_features", 8),),
    "DeMoSeg": (("base_features", 24),),
}


def _arm(title: str, trainer: str, settings: Settings) -> Arm:
    return Arm(
        key=trainer.lower(),
        title=title,
        trainer=f"nnUNetTrainer{trainer}",
        full_share=0.0,
        step_cost=None,
        seeds=3,
        settings=settings,
        network="own",
    )


NARROW = {arm.key: arm for arm in (_arm(*of) for of in _NARROW)}
OWN_OPTIMIZER = {
    f"{key}_own": replace(arm, key=f"{key}_own", title=f"{arm.title}, own optimizer", own_optimizer=True)
    for key, arm in NARROW.items()
}
WIDE = {
    f"{key}_wide": replace(arm, key=f"{key}_wide", title=f"{arm.title}, wide", settings=_WIDE[arm.title])
    for key, arm in NARROW.items()
    if arm.title in _WIDE
}
OF_METHODS = NARROW | OWN_OPTIMIZER | WIDE
