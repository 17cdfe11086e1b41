"""MST-KD with another teacher, and without one of its mechanisms, as in the paper's ablation.

Which terms belong to which mechanism: docs/methods/mstkd.md. A term of weight 0 is not computed.
"""

from __future__ import annotations

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.mstkd.trainer import nnUNetTrainerMSTKD
from nnunetv2_mstkd.methods.mstkd.weights import TERM_NAMES
from nnunetv2_mstkd.settings import JOINT, SHARED, TEACHERS


class nnUNetTrainerMSTKDJoint(nnUNetTrainerMSTKD):
    """MST-KD with a joint teacher: two networks learn side by side from the start (the published way)."""

    teacher = JOINT
    own_teacher = True
    full_phase = 0.0


class nnUNetTrainerMSTKDShared(nnUNetTrainerMSTKD):
    """One network sees the whole and the masked patch in each step and distils into itself."""

    teacher = SHARED
    own_teacher = True


class nnUNetTrainerMSTKDFrozenTeacher(nnUNetTrainerMSTKD):
    """MSTKDNet distilled from the model folder that the plans name (``plan --teacher MODEL_FOLDER``).

    Masking starts with the first epoch; the student starts from the teacher's weights wherever names and
    shapes agree, which for MSTKDNet means a model of MSTKDNet.
    """

    teacher = ""

    def initialize(self) -> None:
        if self.teacher in TEACHERS or not self.teacher:
            raise MSTKDError(
                f"{type(self).__name__} distils from a finished model, but these plans name "
                f"{f'teacher {self.teacher!r}' if self.teacher else 'none'}; plan with "
                "nnUNetv2_mstkd plan --teacher MODEL_FOLDER"
            )
        super().initialize()


class nnUNetTrainerMSTKD_woTransformerKD(nnUNetTrainerMSTKD):
    """Without multi-scale transformer knowledge distillation: token features and attention.

    The paper's row "w/o MSTKD".
    """

    without = ("token_features", "attention")


class nnUNetTrainerMSTKD_woGSME(nnUNetTrainerMSTKD):
    """Without global style matching: Gram matrices, style discriminator and content."""

    without = ("content", "gram", "adversarial")


class nnUNetTrainerMSTKD_woSLKD(nnUNetTrainerMSTKD):
    """Without distillation of logits: consistency and standardised-logit KL (DMLD in the paper's text)."""

    without = ("consistency", "kl", "foreground_kl")


class nnUNetTrainerMSTKD_PlainStudent(nnUNetTrainerMSTKD):
    """Network, phases and masking of MST-KD with no distillation: no teacher is made."""

    without = tuple(name for name in TERM_NAMES if name != "segmentation")
