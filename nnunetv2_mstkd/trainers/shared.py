"""MST-KD with one network that is its own teacher."""

from __future__ import annotations

from nnunetv2_mstkd.trainers.mstkd import nnUNetTrainerMSTKD


class nnUNetTrainerMSTKDShared(nnUNetTrainerMSTKD):
    """One network sees the whole and the masked patch in each step and distils into itself."""

    teacher = "shared"
    own_teacher = True
