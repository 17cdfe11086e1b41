"""MST-KD without one of its mechanisms, as in the paper's ablation, and without all of them.

Which terms belong to which mechanism: docs/methods.md. A term of weight 0 is not computed.
"""

from __future__ import annotations

from nnunetv2_mstkd.distillation import TERM_NAMES
from nnunetv2_mstkd.trainers.mstkd import nnUNetTrainerMSTKD


class nnUNetTrainerMSTKD_woMSTKD(nnUNetTrainerMSTKD):
    """Without multi-scale transformer knowledge distillation: token features and attention."""

    without = ("token_features", "attention")


class nnUNetTrainerMSTKD_woGSME(nnUNetTrainerMSTKD):
    """Without global style matching: Gram matrices, style discriminator and content."""

    without = ("content", "gram", "adversarial")


class nnUNetTrainerMSTKD_woSLKD(nnUNetTrainerMSTKD):
    """Without distillation of logits: consistency and standardised-logit KL (DMLD in the paper's text)."""

    without = ("consistency", "kl")


class nnUNetTrainerMSTKD_PlainStudent(nnUNetTrainerMSTKD):
    """Network, phases and masking of MST-KD with no distillation: no teacher is made."""

    without = tuple(name for name in TERM_NAMES if name != "segmentation")
