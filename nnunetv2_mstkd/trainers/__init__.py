"""nnU-Net trainers, found by name through ``nnUNet_extTrainer`` (see ``external_trainers``)."""

from nnunetv2_mstkd.trainers.full_modality import nnUNetTrainerFullModality
from nnunetv2_mstkd.trainers.joint import nnUNetTrainerMSTKDJoint
from nnunetv2_mstkd.trainers.missing_modality import nnUNetTrainerMissingModality
from nnunetv2_mstkd.trainers.modality_dropout import nnUNetTrainerModalityDropout
from nnunetv2_mstkd.trainers.mstkd import nnUNetTrainerMSTKD
from nnunetv2_mstkd.trainers.official import nnUNetTrainerMSTKDOfficial

__all__ = [
    "nnUNetTrainerFullModality",
    "nnUNetTrainerMSTKD",
    "nnUNetTrainerMSTKDJoint",
    "nnUNetTrainerMSTKDOfficial",
    "nnUNetTrainerMissingModality",
    "nnUNetTrainerModalityDropout",
]
