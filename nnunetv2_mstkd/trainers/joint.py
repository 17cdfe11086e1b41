"""MST-KD with two networks that learn side by side."""

from __future__ import annotations

from nnunetv2_mstkd.trainers.mstkd import nnUNetTrainerMSTKD


class nnUNetTrainerMSTKDJoint(nnUNetTrainerMSTKD):
    """MST-KD with a joint teacher: two networks learn side by side from the start (the published way)."""

    teacher = "joint"
    own_teacher = True
    full_phase = 0.0
