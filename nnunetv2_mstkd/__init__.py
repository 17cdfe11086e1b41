"""nnU-Net for incomplete MRI: MST-KDNet distillation beside an untouched nnunetv2."""

__version__ = "0.1.0"
