"""nnU-Net trainers, found by name through ``nnUNet_extTrainer`` (see ``external_trainers``)."""

from nnunetv2_mstkd.trainers.ablations import (
    nnUNetTrainerMSTKD_PlainStudent,
    nnUNetTrainerMSTKD_woGSME,
    nnUNetTrainerMSTKD_woMSTKD,
    nnUNetTrainerMSTKD_woSLKD,
)
from nnunetv2_mstkd.trainers.frozen_teacher import nnUNetTrainerMSTKDFrozenTeacher
from nnunetv2_mstkd.trainers.full_modality import nnUNetTrainerFullModality
from nnunetv2_mstkd.trainers.joint import nnUNetTrainerMSTKDJoint
from nnunetv2_mstkd.trainers.missing_modality import nnUNetTrainerMissingModality
from nnunetv2_mstkd.trainers.modality_dropout import nnUNetTrainerModalityDropout
from nnunetv2_mstkd.trainers.mstkd import nnUNetTrainerMSTKD
from nnunetv2_mstkd.trainers.official import nnUNetTrainerMSTKDOfficial
from nnunetv2_mstkd.trainers.shared import nnUNetTrainerMSTKDShared
from nnunetv2_mstkd.trainers.unet import nnUNetTrainerMSTKDUNet

__all__ = [
    "nnUNetTrainerFullModality",
    "nnUNetTrainerMSTKD",
    "nnUNetTrainerMSTKDFrozenTeacher",
    "nnUNetTrainerMSTKDJoint",
    "nnUNetTrainerMSTKDOfficial",
    "nnUNetTrainerMSTKDShared",
    "nnUNetTrainerMSTKDUNet",
    "nnUNetTrainerMSTKD_PlainStudent",
    "nnUNetTrainerMSTKD_woGSME",
    "nnUNetTrainerMSTKD_woMSTKD",
    "nnUNetTrainerMSTKD_woSLKD",
    "nnUNetTrainerMissingModality",
    "nnUNetTrainerModalityDropout",
]
