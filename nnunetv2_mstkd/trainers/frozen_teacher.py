"""MST-KD with a finished model as its teacher."""

from __future__ import annotations

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.settings import TEACHERS
from nnunetv2_mstkd.trainers.mstkd import nnUNetTrainerMSTKD


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
